"""A GPart adapter as LoRA, with what that loses: a change of full rank is cut to its largest singular values.

Servers of many adapters want two thin factors. A change that a random partition makes has no low-rank structure, so
its singular values fall slowly and a low rank loses most of it: merging is exact, this is not. Each change is made
alone and projected on its leading singular vectors, which come from its smaller Gram matrix in float64; values of the
base's weights are not needed, so its module may be one without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch

from featherweight.core.adapter_folder import PREFIX, Adapter, LoraFactors
from featherweight.core.errors import AdapterError
from featherweight.core.progress import Progress
from featherweight.core.rank_allocation import terms_for
from featherweight.models.gpart_layer import GPartLayer


@dataclass(frozen=True)
class Conversion:
    """LoRA factors, and what they lack.

    Attributes:
        adapter: plain LoRA, of scale 1.
        lost: norm of what is missing over the norm of the change, by module.
        lost_in_all: the same over all modules together.
    """

    adapter: Adapter
    lost: Mapping[str, float]
    lost_in_all: float


def to_lora(adapted: Any, rank: int | float, adapter: str = "default", progress: Progress | None = None) -> Conversion:
    """Converts an adapter.

    Args:
        adapted: PEFT's wrapper of a module.
        rank: of every module; a fraction is the share of its squared norm to keep, with ranks that follow from it.
        adapter: its name.
        progress: shows how far it is.

    Raises:
        AdapterError: it is no GPart adapter, it changes biases, it changes nothing, or a module has no such rank.
    """
    named = ((name, each) for name, each in adapted.named_modules() if isinstance(each, GPartLayer))
    layers = {name.removeprefix(PREFIX): each for name, each in named if adapter in each.gpart_stretches}
    _require_convertible(layers, rank, adapter)
    factors, missing, total = {}, {}, {}
    with (progress or Progress()).track("converting to LoRA", len(layers)) as advance:
        for name, layer in layers.items():
            factors[name], missing[name], total[name] = _cut(layer, adapter, rank)
            advance()
    lost = {name: _ratio(missing[name], total[name]) for name in layers}
    plain = Adapter(factors, _config(adapted, adapter), carried=_carried(adapted, adapter))
    return Conversion(plain, lost, _ratio(sum(missing.values()), sum(total.values())))


@torch.no_grad()
def _cut(layer: GPartLayer, adapter: str, rank: int | float) -> tuple[LoraFactors, float, float]:
    """The best factors of one change, and the squared norms of what they lack and of the change."""
    change = layer.get_delta_weight(adapter).cpu().double()
    change = change.T if layer.transposed else change
    tall = change.shape[0] > change.shape[1]
    squares, vectors = torch.linalg.eigh(change.T @ change if tall else change @ change.T)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    terms = rank if isinstance(rank, int) else terms_for(squares, rank)
    kept, root = vectors[:, :terms], squares[:terms].pow(0.25).clamp(min=1e-30)
    # Projections, not products of three factors: exact however small a singular value is.
    b, a = (change @ kept / root, (kept * root).T) if tall else (kept * root, (kept / root).T @ change)
    return LoraFactors(a.float(), b.float(), 1.0), float(squares[terms:].sum()), float(squares.sum())


def _ratio(missing: float, total: float) -> float:
    return math.sqrt(missing / total) if total else 0.0


def _config(adapted: Any, adapter: str) -> dict[str, Any]:
    """What PEFT is told of the LoRA beside its factors."""
    before = adapted.peft_config[adapter]
    config: Any = peft.LoraConfig(
        base_model_name_or_path=before.base_model_name_or_path, task_type=before.task_type,
        modules_to_save=before.modules_to_save, inference_mode=True,
    )  # fmt: skip
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}


def _carried(adapted: Any, adapter: str) -> dict[str, torch.Tensor]:
    """Tensors of modules that were trained whole, by their name in a file."""
    saved = peft.get_peft_model_state_dict(adapted, adapter_name=adapter, save_embedding_layers=False)
    return {name: value.detach().cpu() for name, value in saved.items() if "gpart_" not in name}


def _require_convertible(layers: Mapping[str, GPartLayer], rank: int | float, adapter: str) -> None:
    what = "converting a GPart adapter to LoRA" if adapter == "default" else f"converting {adapter!r} to LoRA"
    if not layers:
        raise AdapterError(what, "it is no GPart adapter of this model", "name one of the model's adapters")
    if not all(each.supports_lora_conversion(adapter) for each in layers.values()):
        raise AdapterError(what, "it changes biases too, which LoRA's factors cannot", "merge it into the model")
    if not next(iter(layers.values())).gpart_theta[adapter].any():
        raise AdapterError(what, "its vector is zero, so it changes nothing", "train it first")
    for reason in _bad_ranks(layers, rank):
        raise AdapterError(what, *reason)


def _bad_ranks(layers: Mapping[str, GPartLayer], rank: int | float) -> Iterator[tuple[str, str]]:
    smallest = min(layers, key=lambda name: min(layers[name].linear.weight.shape))
    size = min(layers[smallest].linear.weight.shape)
    if isinstance(rank, float) and not 0 < rank <= 1:
        yield f"{rank:g} is no share of the squared norm", "give a share above 0 and up to 1, or a whole rank"
    if isinstance(rank, int) and not 1 <= rank <= size:
        yield f"rank {rank} is not from 1 to {size}, the smaller side of {smallest}", f"use a rank of at most {size}"
