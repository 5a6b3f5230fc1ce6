"""What the verbs on adapters start with: the factors of an adapter folder, and the model that it belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featherweight.core.adapter_facts import read_facts, require_base
from featherweight.core.adapter_folder import WEIGHTS, Adapter, read_adapter, read_config
from featherweight.core.errors import AdapterError
from featherweight.core.model import Model
from featherweight.core.rank_allocation import Ranks, spectra, with_ranks
from featherweight.core.source import open_model

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
        from featherweight.models.matryoshka_export import export_rank

        return export_rank(folder, rank)
    adapter = read_adapter(folder)
    return adapter if rank is None else _truncated(adapter, rank)


def _truncated(adapter: Adapter, rank: int) -> Adapter:
    highest = max(each.rank for each in adapter.factors.values())
    if not 1 <= rank <= highest:
        raise AdapterError(
            f"rank {rank}", f"is none that {adapter.folder} has, which goes from 1 to {highest}",
            f"give a rank of at most {highest}",
        )  # fmt: skip
    ranks: Ranks = {module: min(rank, each.rank) for module, each in adapter.factors.items()}
    return adapter if rank == highest else with_ranks(adapter, spectra(adapter), ranks)


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
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
