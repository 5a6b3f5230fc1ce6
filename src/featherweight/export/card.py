"""The model card of an export: README.md with front matter for the hub, measured numbers, lineage, how to load it.

Made from a plain mapping of facts, so that it knows no technique by name. Every key but `name` and `format` may be left
out; what is not known is not written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FORMATS = {"gguf": "gguf", "hugging-face": "transformers"}
_UNKNOWN = "not measured"


def write_card(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Writes README.md into a folder and returns its path.

    Args:
        folder: of the exported model.
        facts: what is known. Keys:
            name: of the model, as a title.
            format: "gguf" or "hugging-face".
            file: name of the .gguf file.
            base_model: hub name of the parent, as the hub understands it.
            parent: what to call the parent in the text, where it has no hub name.
            license: identifier such as "apache-2.0".
            languages, tags: lists for the hub.
            measured: rows with `quantity`, `parent`, `result` and perhaps `unit`.
            recipe: the steps, as YAML text.
            lineage: rows with `step` and `receipt` (a hash), oldest first.
            notes: sentences that a user should know.
            environment: names and versions that the numbers were measured with.
    """
    sections = [
        front_matter(_matter(facts)),
        f"# {facts['name']}\n\n{_introduction(facts)}",
        _section("Measured", _measured(facts.get("measured", ()))),
        _section("Load it", _loading(facts)),
        _section("Recipe", f"```yaml\n{facts['recipe'].strip()}\n```" if facts.get("recipe") else ""),
        _section("Lineage", _lineage(facts.get("lineage", ()))),
        _section("Notes", "\n".join(f"- {note}" for note in facts.get("notes", ()))),
        _section("Environment", table(("what", "version"), list(facts.get("environment", {}).items()))),
    ]
    path = folder / "README.md"
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")
    return path


def _matter(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "library_name": FORMATS[facts["format"]],
        "pipeline_tag": "text-generation",
        "base_model": facts.get("base_model"),
        "license": facts.get("license"),
        "language": list(facts.get("languages", ())),
        "tags": ["featherweight", *facts.get("tags", ())],
    }


def front_matter(matter: Mapping[str, Any]) -> str:
    """What the hub reads at the head of a card; what is empty is left out."""
    known = {key: value for key, value in matter.items() if value}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---"


def _introduction(facts: Mapping[str, Any]) -> str:
    parent = facts.get("base_model") or facts.get("parent")
    made = f"made from {parent} " if parent else "made "
    return f"A smaller language model, {made}with featherweight."


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _measured(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            _quantity(row),
            _value(row.get("parent")),
            _value(row.get("result")),
            _ratio(row.get("parent"), row.get("result")),
        )
        for row in rows
    ]
    return table(("", "parent", "this model", "ratio"), cells)


def _quantity(row: Mapping[str, Any]) -> str:
    return f"{row['quantity']} ({row['unit']})" if row.get("unit") else str(row["quantity"])


def _value(value: Any) -> str:
    if value is None:
        return _UNKNOWN
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ratio(parent: Any, result: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (parent, result))
    return f"{result / parent:.3f}" if numbers and parent else ""


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as Markdown; nothing where there are none."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _lineage(rows: Sequence[Mapping[str, Any]]) -> str:
    return table(("step", "receipt"), [(row["step"], f"`{row['receipt']}`") for row in rows])


def _loading(facts: Mapping[str, Any]) -> str:
    if facts["format"] == "gguf":
        file = facts.get("file", "model.gguf")
        return f"""With llama.cpp:

```
llama-server -m {file}
llama-cli -m {file} -p "The sea is"
```

In Python (`pip install xllamacpp`):

```python
import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = "{file}"
server = xllamacpp.Server(parameters)
print(server.handle_chat_completions({{"messages": [{{"role": "user", "content": "Hello"}}]}}))
```"""
    return """With transformers (`pip install transformers compressed-tensors`), FOLDER being the folder of this file:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer("The sea is", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```

With vLLM, which wants one number format within query/key/value and within gate/up:

```
vllm serve FOLDER
```"""
