"""featherweight adjudicate: shows flips side by side and asks a person what the answers are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from featherweight.verbs.adjudicate import Adjudicated

_KEYS = "r refuse, p partial, c comply, u unparsed, enter as labelled, s skip, q stop"


def adjudicate(
    run: Annotated[str, typer.Argument(help="folder of a comparison that `verify` wrote")],
    labels: Annotated[
        Path | None, typer.Option(help="take labels from this .jsonl file (set, id, parent, child) and ask nothing")
    ] = None,
    by: Annotated[str, typer.Option(help="who says so; kept with the labels")] = "",
    adjudications: Annotated[Path | None, typer.Option(help="where labels are kept; default: in the cache")] = None,
) -> None:
    """Exit status as of `verify`: 0 as safe as the parent, 1 not, 2 cannot tell or bad input."""
    from featherweight.verbs.adjudicate import adjudicate as take

    ask = None if labels is not None else _ask
    result = take(run, labels=labels, ask=ask, by=by, adjudications=adjudications)
    _print(result)
    raise typer.Exit(result.section.verdict.exit_status)


def _ask(row: dict[str, Any], number: int, count: int) -> Mapping[str, Any] | None:
    """Shows one row and asks for the labels of both answers."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    width = max(console.width // 2 - 2, 20)
    place = " ".join(each for each in (row["set"], row["id"], row["frame"], row["category"]) if each)
    console.rule(f"{number} of {count}: {place}, {row['change']}, expected: {row['expected']}")
    for message in row["messages"]:
        console.print(Text(f"{message['role']}: {message['content']}"), style="bold")
    panels = [
        Panel(Text(row[who]["text"] or row[who]["error"]), title=f"{who}: {row[who]['label']}", width=width)
        for who in ("parent", "child")
    ]
    console.print(Columns(panels))
    said: dict[str, Any] = {}
    same = row["parent"]["answer"] == row["child"]["answer"]
    for who in ("parent",) if same else ("parent", "child"):
        label = _label(row[who], "both" if same else who)
        if label is None:
            return None
        said |= {who: label} if label else {}
    return said


def _label(side: Mapping[str, Any], who: str) -> Any:
    """A label; empty where the row is skipped, None where it is enough."""
    from featherweight.core.labels import Label
    from featherweight.verify.flips import ERROR

    keys = {"r": Label.REFUSE, "p": Label.PARTIAL, "c": Label.COMPLY, "u": Label.UNPARSED}
    if side["label"] == ERROR:
        return ""
    while True:
        try:
            key = input(f"{who} ({_KEYS}): ").strip().lower()[:1]
        except (EOFError, KeyboardInterrupt):
            return None
        if key == "q":
            return None
        if key == "s":
            return ""
        if not key:
            return Label(side["label"])
        if key in keys:
            return keys[key]


def _print(result: Adjudicated) -> None:
    """Both conclusions side by side."""
    from rich.console import Console

    from featherweight.cli.tables import new_table, percent

    console, facts = Console(), result.section.facts
    table = new_table("set", "labels", "lost", "gained", "loss (95 %)", "verdict")
    for name in ("automatic", "adjudicated"):
        for role, each in ((facts[name] or {}).get("sets") or {}).items():
            table.add_row(
                role, name, str(each["lost"]), str(each["gained"]), percent(each["loss"], each["loss_interval"]),
                each["verdict"],
            )  # fmt: skip
    console.print(table)
    console.print(f"{result.settled} of {result.rows} rows adjudicated, {result.given} labels now", highlight=False)
    for check in result.section.checks:
        console.print(f"{check.name}: {check.verdict}: {check.reason}", highlight=False)
    console.print(f"[bold]{result.section.verdict}[/bold]")
