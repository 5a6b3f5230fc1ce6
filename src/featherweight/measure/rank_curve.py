"""The quality of an adapter at each rank, and the area under that curve (AURAC).

A MatryoshkaLoRA is measured at what it serves (`at_rank`); any other LoRA is cut to its best approximation of each
rank (singular values of B A, layer by layer), which is what truncation afterwards can do at most without data.

AURAC is the trapezoid area divided by the span of ranks, over r (v1, which the top octave dominates) or over log2 r
(v2); the source (arXiv 2605.07850) logs both and the plain mean. Without an accuracy, the negated loss takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from featherweight.core.adapter_folder import LoraFactors
from featherweight.core.batch import Batch
from featherweight.core.errors import AdapterError
from featherweight.core.lazy import torch
from featherweight.core.nested import powers_of_two
from featherweight.core.rank_allocation import spectrum
from featherweight.train.next_token import next_token_loss


@dataclass(frozen=True)
class Aurac:
    """Three averages of a quality over ranks.

    Attributes:
        linear: area over the ranks divided by their span (v1).
        log: the same over log2 of the ranks (v2).
        mean: of the values.
    """

    linear: float
    log: float
    mean: float


def aurac(ranks: Sequence[int], values: Sequence[float]) -> Aurac:
    """Area under a curve over increasing ranks; a single value is its own area.

    Raises:
        AdapterError: no ranks, not one value for each, or ranks that do not increase.
    """
    if not ranks or len(ranks) != len(values) or any(after <= before for before, after in pairwise(ranks)):
        raise AdapterError(
            f"a curve over ranks {list(ranks)} with {len(values)} values", "has no area",
            "give increasing ranks and one value for each",
        )  # fmt: skip
    logs = [math.log2(rank) for rank in ranks]
    return Aurac(_area(ranks, values), _area(logs, values), sum(values) / len(values))


def _area(positions: Sequence[float], values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    steps = zip(pairwise(positions), pairwise(values), strict=True)
    area = sum((right - left) * (low + high) / 2 for (left, right), (low, high) in steps)
    return area / (positions[-1] - positions[0])


@dataclass(frozen=True)
class RankCurve:
    """Held-out loss at each rank.

    Attributes:
        ranks: increasing.
        losses: nats per token, one for each rank.
        base: the loss without the adapter.
    """

    ranks: tuple[int, ...]
    losses: tuple[float, ...]
    base: float

    @property
    def aurac(self) -> Aurac:
        """Of the negated losses: higher is better."""
        return aurac(self.ranks, [-loss for loss in self.losses])


def rank_curve(
    adapted: Any, batches: Sequence[Batch], ranks: Sequence[int] | None = None, cut: bool | None = None
) -> RankCurve:
    """The loss of an adapted model at each rank; the model is in evaluation mode meanwhile.

    Args:
        adapted: PEFT's wrapper of a causal language model with one active LoRA, nested or not.
        batches: held-out rows, on the model's device.
        ranks: increasing; None = powers of two up to the adapter's.
        cut: whether to measure best approximations instead of what the adapter serves; None = where it serves one rank.
    """
    chosen = tuple(ranks) if ranks else powers_of_two(highest_rank(adapted))
    truncates = not hasattr(adapted, "at_rank") if cut is None else cut
    training = adapted.training
    adapted.eval()
    try:
        losses = tuple(_at(adapted, rank, batches, truncates) for rank in chosen)
        with adapted.disable_adapter():
            return RankCurve(chosen, losses, held_out_loss(adapted, batches))
    finally:
        adapted.train(training)


def highest_rank(adapted: Any) -> int:
    """Of the active adapter, over all layers."""
    config = adapted.peft_config[adapted.active_adapter]
    return max(int(rank) for rank in [config.r, *(config.rank_pattern or {}).values()])


def _at(adapted: Any, rank: int, batches: Sequence[Batch], cut: bool) -> float:
    with truncated(adapted, rank) if cut else adapted.at_rank(rank):
        return held_out_loss(adapted, batches)


def held_out_loss(adapted: Any, batches: Sequence[Batch]) -> float:
    """Mean next-token loss over everything that counts in the batches, nats per token."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            loss, counted = next_token_loss(adapted, batch)
            total, count = total + float(loss), count + counted
    return total / max(count, 1)


@contextmanager
def truncated(adapted: Any, rank: int) -> Iterator[None]:
    """The active LoRA's best approximation of a rank, while it is open: each layer's B A by its singular values."""
    before: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for a, b in _factors(adapted):
            before.append((a, a.data))
            before.append((b, b.data))
            a.data, b.data = truncated_factors(a.data, b.data, rank)
        yield
    finally:
        for parameter, values in before:
            parameter.data = values


def truncated_factors(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of the same shapes whose product is the best approximation of `b @ a` of a rank.

    Args:
        a: [R, in].
        b: [out, R].
        rank: singular values beyond it are dropped.
    """
    best = spectrum(LoraFactors(a, b, 1.0)).factors(rank, torch.float64)
    missing = a.shape[0] - best.rank
    padded_a, padded_b = (
        torch.nn.functional.pad(best.a, (0, 0, 0, missing)),
        torch.nn.functional.pad(best.b, (0, missing)),
    )
    return padded_a.to(a.dtype), padded_b.to(b.dtype)


def _factors(adapted: Any) -> list[tuple[Any, Any]]:
    from peft.tuners.lora.layer import LoraLayer

    name = adapted.active_adapter
    layers = (module for module in adapted.modules() if isinstance(module, LoraLayer))
    return [(layer.lora_A[name].weight, layer.lora_B[name].weight) for layer in layers if name in layer.lora_A]
