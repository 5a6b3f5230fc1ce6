"""What an adapter folder of ours says of itself in `featherweight.json`: its base, its method, its receipts.

The base is known by its fingerprint, so that an adapter is never used with another model unawares. A folder from
elsewhere has no such file; then the names and shapes of its weights must at least fit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherweight.core.adapter_folder import Adapter
from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.errors import AdapterError, nearest
from featherweight.core.model import Model

FACTS = "featherweight.json"


@dataclasses.dataclass(frozen=True)
class AdapterFacts:
    """Where an adapter comes from.

    Attributes:
        base: fingerprint of the model that it was trained on.
        base_name: what a person calls that model: a folder, a .gguf file, smollm2-135m.
        method: "lora", "matryoshka-lora", ...
        version: of featherweight.
        receipts: what was done, oldest first.
    """

    base: str
    base_name: str
    method: str = "lora"
    version: str = ""
    receipts: tuple[Mapping[str, Any], ...] = ()

    def with_receipt(self, receipt: Mapping[str, Any]) -> AdapterFacts:
        """The same facts, one receipt further."""
        return dataclasses.replace(self, receipts=(*self.receipts, receipt))


def read_facts(folder: Path) -> AdapterFacts | None:
    """The facts beside an adapter; None for one from elsewhere.

    Raises:
        AdapterError: the file is there and cannot be read.
    """
    path = folder / FACTS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: found[field.name] for field in dataclasses.fields(AdapterFacts) if field.name in found}
        return AdapterFacts(**{**known, "receipts": tuple(known.get("receipts", ()))})
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise AdapterError(str(path), f"cannot be read ({error})", "remove it, or save the adapter again") from None


def write_facts(folder: Path, facts: AdapterFacts) -> None:
    """Writes the facts into an adapter folder."""
    text = json.dumps({**dataclasses.asdict(facts), "receipts": list(facts.receipts)}, indent=1)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")


def require_base(adapter: Adapter, model: Model) -> None:
    """Refuses an adapter that belongs to another model.

    Raises:
        AdapterError: the fingerprint is another, or a module is missing or of another shape.
    """
    require_fingerprint(adapter.folder, model)
    for module in adapter.factors:
        _require_shape(adapter, module, model)


def require_fingerprint(folder: Path, model: Model) -> None:
    """Refuses an adapter folder that says that it belongs to another model.

    Raises:
        AdapterError: the fingerprint is another.
    """
    facts = read_facts(folder)
    if facts is not None and facts.base != model.fingerprint:
        raise AdapterError(
            str(folder),
            f"belongs to another base: {facts.base_name} with the fingerprint {facts.base[:12]}, "
            f"and {model.folder} has {model.fingerprint[:12]}",
            "give that model with --model",
        )


def _require_shape(adapter: Adapter, module: str, model: Model) -> None:
    name = base_weight(module, model)
    if name not in model.entries:
        known = [each.removesuffix(".weight") for each in model.entries if each.endswith(".weight")]
        mend = nearest(module, known) or "give the model that it was trained on with --model"
        raise AdapterError(f"{adapter.folder}, {module}", f"is no module of {model.folder}", mend)
    a, b, _ = adapter.factors[module]
    shape = (b.shape[0], a.shape[1])
    expected = model.entries[name].shape[::-1] if module in adapter.embeddings else model.entries[name].shape
    if shape != tuple(expected):
        why = f"changes a matrix of {list(shape)}, and that of {model.folder} has {list(expected)}"
        raise AdapterError(f"{adapter.folder}, {module}", why, "give the model that it was trained on with --model")


def base_weight(module: str, model: Model) -> str:
    """Name of the weight that a module's factors change; a tied head has none of its own."""
    name = f"{module}.weight"
    return EMBEDDING if name == HEAD and model.architecture.tied else name
