"""What the verbs on adapters start with: the factors of an adapter folder, and the model that it belongs to."""

from __future__ import annotations

from pathlib import Path

from featherweight.core.adapter_facts import read_facts, require_base
from featherweight.core.adapter_folder import WEIGHTS, Adapter, read_adapter, read_config
from featherweight.core.errors import AdapterError
from featherweight.core.model import Model
from featherweight.core.rank_allocation import spectra, with_ranks
from featherweight.core.source import open_model
from featherweight.core.user_file import digest_of

NESTED = "MATRYOSHKA_LORA"


def open_adapter(folder: Path, rank: int | None = None) -> Adapter:
    """An adapter as plain LoRA, at a rank.

    Args:
        folder: a PEFT folder of LoRA or MatryoshkaLoRA.
        rank: a MatryoshkaLoRA's first components as they are served, any other one's best approximation of it, module
            by module; None = all of it.

    Raises:
        AdapterError: it cannot be read, or has no such rank.
    """
    if read_config(folder).get("peft_type") == NESTED:
        from featherweight.models.matryoshka_export import at_rank

        nested = read_adapter(folder, NESTED)
        return at_rank(nested, _checked(nested, rank))
    adapter = read_adapter(folder)
    wanted = _checked(adapter, rank)
    if wanted == highest_rank(adapter):
        return adapter
    return with_ranks(adapter, spectra(adapter), {
        module: min(wanted, each.rank) for module, each in adapter.factors.items()
    })  # fmt: skip


def highest_rank(adapter: Adapter) -> int:
    """Of all modules."""
    return max(each.rank for each in adapter.factors.values())


def _checked(adapter: Adapter, rank: int | None) -> int:
    highest = highest_rank(adapter)
    if rank is not None and not 1 <= rank <= highest:
        raise AdapterError(
            f"rank {rank}", f"is none that {adapter.folder} has", f"give a rank from 1 to {highest}, or none for all"
        )
    return highest if rank is None else rank


def base_of(adapter: Adapter, name: str | None = None, cache: Path | None = None) -> Model:
    """The model that an adapter belongs to: the one that is named, else the one that the folder names.

    Raises:
        AdapterError: none is named, or it is another one than the adapter was trained on.
        CheckpointError: it cannot be found or read.
    """
    facts = read_facts(adapter.folder)
    known = name or (facts.base_name if facts else "") or str(adapter.config.get("base_model_name_or_path") or "")
    if not known:
        raise AdapterError(str(adapter.folder), "does not say which model it belongs to", "give it with --model")
    model = open_model(known, cache)
    require_base(adapter, model)
    return model


def weights_digest(folder: Path) -> str:
    """SHA-256 of an adapter's file of tensors."""
    return digest_of(folder / WEIGHTS)
