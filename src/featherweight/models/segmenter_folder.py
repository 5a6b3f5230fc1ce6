"""An adapted segmenter on disk: what was tuned, how it was wired, and which base it belongs to; the base is not in it.

LoRA is a plain PEFT folder, which PEFT loads without us. Serial adapters have the same three files with another type,
"SERIAL_ADAPTER": `adapter_config.json`, `adapter_model.safetensors` and `featherweight.json`. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from featherweight.core.adapter_facts import AdapterFacts, read_facts, write_facts
from featherweight.core.adapter_folder import CONFIG, WEIGHTS, read_config
from featherweight.core.checkpoint import file_entries
from featherweight.core.errors import AdapterError
from featherweight.core.module_fingerprint import module_fingerprint
from featherweight.models.deformable_lora import without_word_embeddings
from featherweight.models.serial_adapter import SerialAdapter, adapted, insert, inserted

SERIAL = "SERIAL_ADAPTER"


def save_lora(model: Any, folder: Path, facts: AdapterFacts) -> None:
    """Writes PEFT's wrapper into an existing folder.

    Args:
        model: PEFT's wrapper.
        folder: where to.
        facts: where it comes from.
    """
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's is a form that nobody filled in
    _finish(folder, facts)


def save_serial(
    model: torch.nn.Module, settings: SerialAdapter, heads: Sequence[str], folder: Path, facts: AdapterFacts
) -> None:
    """Writes the adapters and heads of a model into an existing folder.

    Args:
        model: with adapters.
        settings: as they were inserted.
        heads: modules that were trained whole.
        folder: where to.
        facts: where it comes from.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in _tuned(model, heads).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    described = {**asdict(settings), "places": sorted(adapted(model))}
    config = {"peft_type": SERIAL, **described, "modules_to_save": list(heads)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _finish(folder, facts)


def _tuned(model: torch.nn.Module, heads: Sequence[str]) -> dict[str, torch.Tensor]:
    """Adapters and heads by name; heads that share their weights are there once."""
    found: dict[str, torch.Tensor] = dict(inserted(model))
    seen: set[int] = set()
    for head in heads:
        for name, value in model.get_submodule(head).named_parameters():
            if id(value) not in seen:
                found[f"{head}.{name}"] = value
            seen.add(id(value))
    return found


def _finish(folder: Path, facts: AdapterFacts) -> None:
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner may read
    write_facts(folder, facts)


def load_adapted(base: Any, folder: str | Path) -> Any:
    """A base with what was tuned, ready to use; LoRA comes in PEFT's wrapper. The base is changed in place.

    Args:
        base: a fresh one, as it was before.
        folder: written by us; a PEFT LoRA folder from elsewhere will do, and its base is then not checked.

    Raises:
        AdapterError: the folder cannot be read, or belongs to another base.
    """
    path = Path(folder)
    config, facts = read_config(path), read_facts(path)
    if not (path / WEIGHTS).is_file():
        raise AdapterError(str(path), f"has no {WEIGHTS}", "save the adapter again; a pickle is never opened")
    found = module_fingerprint(base)
    if facts is not None and facts.base != found:
        raise AdapterError(
            str(path), f"belongs to a base with the fingerprint {facts.base[:12]}, and this one has {found[:12]}",
            "give the model that it was trained on",
        )  # fmt: skip
    model = _with_serial(base, path, config) if config.get("peft_type") == SERIAL else _with_lora(base, path)
    return model.eval()


def _with_lora(base: Any, folder: Path) -> Any:
    import peft

    try:
        with without_word_embeddings(base):
            return peft.PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=False)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise AdapterError(
            str(folder), f"cannot be loaded by PEFT ({str(error).splitlines()[0]})", "save the adapter again"
        ) from None


def _with_serial(base: Any, folder: Path, config: Mapping[str, Any]) -> Any:
    try:
        settings = SerialAdapter(**{name: config[name] for name in ("count", "reduction", "wiring")},
                                 places=tuple(config["places"]))  # fmt: skip
    except KeyError as error:
        raise AdapterError(str(folder / CONFIG), f"lacks {error}", "save the adapter again") from None
    tensors = {name: entry.load() for name, entry in file_entries(folder / WEIGHTS).items()}
    insert(base, settings, torch.Generator())
    expected = _tuned(base, config["modules_to_save"])
    odd = sorted(expected.keys() ^ tensors.keys())
    odd += [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if odd:
        raise AdapterError(str(folder), f"does not fit the base at {odd[0]}", "give the model that it was trained on")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(tensors[name])
    return base
