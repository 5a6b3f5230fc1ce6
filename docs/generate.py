"""Writes the pages that are made from the code: a page a technique, a page a verb, and the verdicts that `show` prints.

    python docs/generate.py           # write
    python docs/generate.py --check   # exit status 1 when what is written differs

A technique's page holds its declaration and the last result of its claim, `claims/results/<name>.json`. Claims that
belong to no single technique, such as that on the order of steps, have a page together.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperOption

from featherweight.cli.app import app
from featherweight.core.technique import Technique, techniques

DOCS = Path(__file__).parent
ROOT = DOCS.parent
RESULTS = ROOT / "claims" / "results"
VERDICTS = ROOT / "src" / "featherweight" / "techniques" / "verdicts.json"
_NATS = "nats a token"
_MADE = "<!-- made by docs/generate.py -->\n\n"


def pages() -> dict[Path, str]:
    """Every generated file with its content."""
    known = techniques()
    every = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    results = {name: each for name, each in every.items() if name in known}
    made = {DOCS / "techniques" / f"{name}.md": technique_page(cls, results.get(name)) for name, cls in known.items()}
    made[DOCS / "techniques" / "README.md"] = index(known, results)
    made[DOCS / "claims.md"] = claims_page({name: each for name, each in every.items() if name not in known})
    made[DOCS / "verbs.md"] = verbs_page()
    verdicts = {name: {"verdict": each["verdict"], "summary": summary(each)} for name, each in results.items()}
    made[VERDICTS] = json.dumps(verdicts, indent=1) + "\n"
    return made


def technique_page(cls: type[Technique], result: Mapping[str, Any] | None) -> str:
    """A technique: what it does, its fields, what it needs, and what it was measured to do."""
    facts = [
        ["kind", str(cls.kind)],
        ["source", str(cls.paper)],
        ["needs", ", ".join(sorted(cls.needs)) or "nothing"],
        ["neutral setting", f"`{cls.neutral()!r}`: {cls.neutral_means}"],
        *([f"not after `{earlier}`", reason] for earlier, reason in cls.not_after.items()),
    ]
    fields = [
        [f"`{name}`", f"`{field.get_default(call_default_factory=True)!r}`", field.description or ""]
        for name, field in cls.model_fields.items()
    ]
    module = inspect.getmodule(cls)
    parts = [
        f"# {cls.name}",
        inspect.cleandoc(cls.__doc__ or ""),
        _story(module.__doc__ if module else ""),
        table(["", ""], facts),
        "## Fields",
        table(["field", "default", "meaning"], fields),
        "## What it was measured to do",
        claim(result) if result else "No claim of its own: it is what other claims compare with.",
    ]
    return _MADE + "\n\n".join(part for part in parts if part) + "\n"


def _story(doc: str | None) -> str:
    """A module's docstring without its first line, which repeats the class's."""
    return "\n".join(inspect.cleandoc(doc or "").splitlines()[1:]).strip()


def claim(result: Mapping[str, Any]) -> str:
    """The verdict, the statements behind it and the losses."""
    units = list(dict.fromkeys(each.get("unit", _NATS) for each in result["statements"]))
    several = len(units) > 1
    statements = [
        [
            f"{each['statement']} ({each.get('unit', _NATS)})" if several else each["statement"],
            f"{each['difference']:+.3f}",
            "{:+.3f} to {:+.3f}".format(*each["interval"]),
            each["outcome"],
        ]
        for each in result["statements"]
    ]
    losses = [
        [name, f"{sum(seeds) / len(seeds):.3f}", f"{min(seeds):.3f} to {max(seeds):.3f}"]
        for name, seeds in result.get("nll", {}).items()
    ]
    where = f"on {result['model']} with {result['calibration']}, judged on {result['evaluation']}"
    parts = [
        f"> {result['claim']}",
        f"**{result['verdict']}**, {where}.",
        table(
            ["statement", "difference" if several else f"difference, {units[0]}", "95 % interval", "outcome"],
            statements,
        ),
    ]
    if losses:
        unit = f"NLL, {_NATS}" if units[0] == _NATS else units[0]
        parts.append(table(["variant", unit, "lowest to highest seed"], losses))
    return "\n\n".join(parts)


def summary(result: Mapping[str, Any]) -> str:
    """One sentence for a terminal."""
    outcomes = [each["outcome"] for each in result["statements"]]
    return f"{result['claim']} {outcomes.count('holds')} of {len(outcomes)} comparisons hold on {result['model']}."


def index(known: Mapping[str, type[Technique]], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The list of techniques."""
    rows = [
        [f"[{name}]({name}.md)", str(cls.kind), cls.summary(), results[name]["verdict"] if name in results else ""]
        for name, cls in known.items()
    ]
    return f"{_MADE}# Techniques\n\n{table(['technique', 'kind', 'what it does', 'claim'], rows)}\n"


def claims_page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Claims about several techniques, or about how they are chosen and trained."""
    parts = [
        "# Claims that belong to no single technique",
        "Each is `python -m claims.NAME`. [Those of a technique](techniques/README.md) stand on its page.",
        *(part for name, each in results.items() for part in (f"## {name}", claim(each))),
    ]
    return _MADE + "\n\n".join(parts) + "\n"


def verbs_page() -> str:
    """The command line: every verb with its arguments and options, as `--help` gives them."""
    parts = ["# Verbs", "Each is a function as well: `import featherweight as fw; fw.fit(...)`."]
    for name, command in commands(typer.main.get_command(app)):
        arguments = [each for each in command.params if isinstance(each, TyperArgument)]
        options = [each for each in command.params if isinstance(each, TyperOption) and each.name != "help"]
        usage = " ".join(["featherweight", name, *(str(each.name).upper() for each in arguments)])
        rows = [[f"`{str(each.name).upper()}`", each.help or ""] for each in arguments]
        rows += [[", ".join(f"`{spelling}`" for spelling in each.opts), each.help or ""] for each in options]
        parts += [f"## {name}", f"`{usage}`", inspect.cleandoc(command.help or "")]
        parts += [table(["argument", "meaning"], rows)] if rows else []
    return _MADE + "\n\n".join(parts) + "\n"


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those of groups such as `adapter` too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def main() -> int:
    made = pages()
    stale = [path for path, content in made.items() if not path.exists() or path.read_text("utf-8") != content]
    gone = [path for path in (DOCS / "techniques").glob("*.md") if path not in made]
    if "--check" in sys.argv:
        for path in [*stale, *gone]:
            print(f"{path.relative_to(ROOT)} is out of date: run `make docs`", file=sys.stderr)
        return 1 if stale or gone else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], "utf-8")
    for path in gone:
        path.unlink()
    print(f"{len(stale)} written, {len(made)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
