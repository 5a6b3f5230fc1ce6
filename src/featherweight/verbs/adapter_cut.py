"""An adapter as plain LoRA at a rank, or at the ranks that hold a share of its energy, and what that loses.

A MatryoshkaLoRA gives what it serves at the rank, any other LoRA its best approximation, module by module. A GPart
adapter is converted: its change of a weight is made with its base, and cut to its largest singular values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from featherweight.core.adapter_facts import read_facts
from featherweight.core.adapter_folder import Adapter, read_adapter, read_config, weights_file
from featherweight.core.checkpoint import file_entries
from featherweight.core.errors import AdapterError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.rank_allocation import energy_kept, spectra, terms_for, with_ranks
from featherweight.verbs.adapter_source import GPART, NESTED, highest_rank, method_of, named_base, open_adapter, wrapped


@dataclass(frozen=True)
class Cut:
    """A plain LoRA that was another adapter.

    Attributes:
        adapter: the LoRA.
        lost: norm of what is missing of a module's change over the norm of that change; empty where nothing was
            dropped, or where the adapter serves less ranks by itself.
        lost_in_all: the same over all modules together; None where `lost` is empty.
        base: the adapter's model, where it had to be opened.
    """

    adapter: Adapter
    lost: Mapping[str, float] = field(default_factory=dict)
    lost_in_all: float | None = None
    base: Model | None = None


def cut_adapter(
    folder: Path,
    rank: int | None = None,
    energy: float | None = None,
    model: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Cut:
    """An adapter at a rank.

    Args:
        folder: a PEFT folder of LoRA, MatryoshkaLoRA or GPart.
        rank: of every module; None = all of it.
        energy: instead of a rank, the share of each module's squared norm to keep.
        model: its base, for a GPart adapter; None = the one that the folder names.
        cache: where converted models are kept.
        progress: shows how far it is.

    Raises:
        AdapterError: it cannot be read, has no such rank, belongs to another base, or changes nothing.
    """
    method = method_of(folder)
    _require_one(folder, method, rank, energy)
    if method == GPART:
        return _converted(folder, rank if energy is None else float(energy), model, cache, progress)
    if method == NESTED and rank is not None:
        from featherweight.models.matryoshka_export import at_rank

        nested = read_adapter(folder, NESTED)
        return Cut(at_rank(nested, _checked(nested, rank)))
    return _truncated(open_adapter(folder), rank, energy)


def _require_one(folder: Path, method: str, rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise AdapterError(f"rank {rank} and energy {energy:g}", "are given together", "leave one of them out")
    if energy is not None and not 0 < energy <= 1:
        raise AdapterError(f"energy {energy:g}", "is no share of the energy", "give more than 0 and at most 1")
    if method == GPART and rank is None and energy is None:
        raise AdapterError(
            str(folder), "is a GPart adapter, which has no rank of its own", "give --rank 8, for example"
        )


def _checked(adapter: Adapter, rank: int) -> int:
    highest = highest_rank(adapter)
    if not 1 <= rank <= highest:
        raise AdapterError(
            f"rank {rank}", f"is none that {adapter.folder} has", f"give a rank from 1 to {highest}, or none for all"
        )
    return rank


def _truncated(adapter: Adapter, rank: int | None, energy: float | None) -> Cut:
    """The best approximation of each module."""
    if energy is None and (rank is None or _checked(adapter, rank) == highest_rank(adapter)):
        return Cut(adapter)
    found = spectra(adapter)
    if energy is None:
        ranks = {module: min(rank or 0, each.rank) for module, each in adapter.factors.items()}
    else:
        ranks = {module: terms_for(each.values.square(), energy) for module, each in found.items()}
    lost = {module: _lost(energy_kept({module: each}, ranks)) for module, each in found.items()}
    return Cut(with_ranks(adapter, found, ranks), lost, _lost(energy_kept(found, ranks)))


def _lost(kept: float) -> float:
    return math.sqrt(max(0.0, 1 - kept))


def _converted(
    folder: Path, rank: int | float | None, name: str | None, cache: Path | None, progress: Progress | None
) -> Cut:
    from featherweight.models.gpart_lora import to_lora

    assert rank is not None
    for tensor, entry in file_entries(weights_file(folder)).items():
        if not bool(torch.isfinite(entry.load()).all()):
            raise AdapterError(f"{folder}, {tensor}", "holds NaN or infinite values", "train it again")
    base = named_base(folder, name, cache)
    found = to_lora(wrapped(_module(folder, base), folder), rank, progress=progress)
    return Cut(replace(found.adapter, folder=folder), found.lost, found.lost_in_all, base)


def _module(folder: Path, base: Model) -> object:
    """The base's module; without values where the adapter does not depend on them and its base is known for sure."""
    config = read_config(folder)
    needed = config.get("backend") == "signed_magnitude" or config.get("modules_to_save") or read_facts(folder) is None
    return base.module() if needed else base.skeleton()
