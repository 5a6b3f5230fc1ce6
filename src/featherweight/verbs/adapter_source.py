"""What the verbs on adapters start with: what an adapter folder holds, and the model that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featherweight.core.adapter_facts import read_facts, require_base, require_fingerprint
from featherweight.core.adapter_folder import WEIGHTS, Adapter, read_adapter, read_config
from featherweight.core.attach import without_renamings
from featherweight.core.errors import AdapterError
from featherweight.core.model import Model
from featherweight.core.source import open_model
from featherweight.core.user_file import digest_of

NESTED, GPART = "MATRYOSHKA_LORA", "GPART"


def method_of(folder: Path) -> str:
    """PEFT's name of an adapter folder's method.

    Raises:
        AdapterError: it is no adapter folder.
    """
    return str(read_config(folder).get("peft_type"))


def open_adapter(folder: Path) -> Adapter:
    """An adapter as plain LoRA, of all its rank.

    Args:
        folder: a PEFT folder of LoRA or MatryoshkaLoRA.

    Raises:
        AdapterError: it cannot be read, or has no factors.
    """
    method = method_of(folder)
    if method == GPART:
        raise AdapterError(
            str(folder), "is a GPart adapter, whose change has no low rank",
            "write it as LoRA first, which loses most of it: adapter export --rank 8",
        )  # fmt: skip
    if method == NESTED:
        from featherweight.models.matryoshka_export import at_rank

        nested = read_adapter(folder, NESTED)
        return at_rank(nested, highest_rank(nested))
    return read_adapter(folder)


def highest_rank(adapter: Adapter) -> int:
    """Of all modules."""
    return max(each.rank for each in adapter.factors.values())


def base_of(adapter: Adapter, name: str | None = None, cache: Path | None = None) -> Model:
    """The model that an adapter belongs to: the one that is named, else the one that the folder names.

    Raises:
        AdapterError: none is named, or it is another one than the adapter was trained on.
        CheckpointError: it cannot be found or read.
    """
    model = named_base(adapter.folder, name, cache)
    require_base(adapter, model)
    return model


def named_base(folder: Path, name: str | None = None, cache: Path | None = None) -> Model:
    """The model that is named, else the one that an adapter folder names.

    Raises:
        AdapterError: none is named, or the folder knows its base and it is another one.
        CheckpointError: it cannot be found or read.
    """
    facts = read_facts(folder)
    known = name or (facts.base_name if facts else "") or str(read_config(folder).get("base_model_name_or_path") or "")
    if not known:
        raise AdapterError(str(folder), "does not say which model it belongs to", "give it with --model")
    model = open_model(known, cache)
    require_fingerprint(folder, model)
    return model


def wrapped(module: Any, folder: Path) -> Any:
    """PEFT's wrapper of a model's module with the adapter of a folder, for evaluation."""
    import peft

    method = method_of(folder)
    if method == NESTED:
        from featherweight.models import matryoshka_lora  # noqa: F401  (PEFT knows the method from here on)
    elif method == GPART:
        from featherweight.models import gpart  # noqa: F401
    with without_renamings():
        return peft.PeftModel.from_pretrained(module, str(folder)).eval()


def beside(folder: Path, ending: str) -> Path:
    """A name that begins like an adapter folder's, next to it; the folder may be called "." too."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + ending)


def weights_digest(folder: Path) -> str:
    """SHA-256 of an adapter's file of tensors."""
    return digest_of(folder / WEIGHTS)
