"""The card of an adapter folder: README.md with what it was trained on, what was measured of it and how to load it.

PEFT's own card is a form to be filled in; this one says what is known and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherweight.core.budget import format_bytes
from featherweight.export.card import front_matter, table

CARD = "README.md"
_REGISTERED = {"matryoshka-lora": "featherweight.models.matryoshka_lora", "gpart": "featherweight.models.gpart"}


def adapter_card(facts: Mapping[str, Any]) -> str:
    """The card.

    Args:
        facts: what `result.json` of `adapt` holds.
    """
    base, method = str(facts["model"]["name"]), str(facts["method"])
    matter = {
        "library_name": "peft", "pipeline_tag": "text-generation", "base_model": base if _on_hub(base) else None,
        "tags": ["featherweight", method],
    }  # fmt: skip
    sections = [
        front_matter(matter),
        f"# {method} adapter of {Path(base).name}",
        _trained(facts),
        f"## Measured\n\n{_measured(facts)}",
        f"## Load it\n\n```python\n{_loading(base, method)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _on_hub(name: str) -> bool:
    return name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "/", "~"))


def _trained(facts: Mapping[str, Any]) -> str:
    data, adapter = facts["data"]["training"], facts["adapter"]
    return (
        f"Trained with featherweight: {len(facts['losses'])} updates on {data['examples']} examples with "
        f"{data['trainable']} trained tokens. {adapter['parameters']:,} parameters, {format_bytes(adapter['bytes'])}. "
        f"The fingerprint of its base is `{facts['model']['fingerprint'][:16]}`; another base is another model. "
        "The receipts are in `featherweight.json`."
    )


def _measured(facts: Mapping[str, Any]) -> str:
    held, kept = facts["held_out"], facts["forgetting"]["all"]
    rows = [
        (
            f"loss on {held['examples']} held-out examples, nats a token",
            f"{held['before']:.4f}",
            f"{held['after']:.4f}",
        ),
        ("perplexity on other text", f"{kept['parent_perplexity']:.2f}", f"{kept['child_perplexity']:.2f}"),
        ("KL to the base on other text, nats a token", "0", f"{kept['kl']:.4f}"),
    ]
    return table(("", "base", "with the adapter"), rows)


def _loading(base: str, method: str) -> str:
    """Python that loads it; the default model and GGUF files are opened by us, other bases by transformers."""
    by_transformers = _on_hub(base) or Path(base).is_dir()
    opened = f'transformers.AutoModelForCausalLM.from_pretrained("{base}")'
    lines = [
        "import peft",
        "import transformers" if by_transformers else "import featherweight as fw",
        *([f"import {_REGISTERED[method]}  # PEFT knows the method from here on"] if method in _REGISTERED else []),
        "",
        f"base = {opened}" if by_transformers else f'base = fw.open_model("{base}").module()',
        'model = peft.PeftModel.from_pretrained(base, "FOLDER")',
    ]
    return "\n".join(lines)
