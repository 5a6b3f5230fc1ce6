"""Inner products of deltas, tensor by tensor, in one pass over base and fine-tunes; and the cosines that they come to.

Memory is a stretch of each model. The pass reads every byte of every fine-tune, so it leaves their digests behind.
What a projection, a residual influence or an EWC penalty of merged models comes to is arithmetic on these matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from featherweight.core.deltas import Delta, walk
from featherweight.core.in_threads import in_threads, usual_threads
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.stretches import count_of

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Pair:
    """Two deltas.

    Attributes:
        one, other: their names.
        cosine: over all weights.
        quantiles: of the cosines of single tensors, at 5, 50 and 95 %, of those that both change; None = of none.
    """

    one: str
    other: str
    cosine: float
    quantiles: tuple[float, float, float] | None


@dataclass(frozen=True)
class Grams:
    """Inner products of deltas.

    Attributes:
        names: of the deltas, in order.
        by_tensor: float64 [deltas, deltas], by tensor; tensors that no delta changes are left out.
    """

    names: tuple[str, ...]
    by_tensor: Mapping[str, torch.Tensor]

    @cached_property
    def total(self) -> torch.Tensor:
        """Inner products over all tensors, float64 [deltas, deltas]; added up exactly, so in no order."""
        count = len(self.names)
        parts = [each.tolist() for _, each in sorted(self.by_tensor.items())]
        return torch.tensor(
            [[math.fsum(part[row][column] for part in parts) for column in range(count)] for row in range(count)],
            dtype=torch.float64,
        ).reshape(count, count)

    @property
    def norms(self) -> list[float]:
        """Of each delta over all tensors."""
        return [math.sqrt(size) for size in self.total.diagonal().tolist()]

    def pairs(self) -> list[Pair]:
        """Every pair of deltas once, in order."""
        whole, parts = cosines(self.total), [cosines(each) for _, each in sorted(self.by_tensor.items())]
        found = []
        for row, one in enumerate(self.names):
            for column in range(row + 1, len(self.names)):
                values = torch.tensor([float(part[row, column]) for part in parts], dtype=torch.float64)
                found.append(
                    Pair(one, self.names[column], float(whole[row, column]), _quantiles(values[~values.isnan()]))
                )
        return found

    def of(self, kept: Sequence[int]) -> Grams:
        """The same of some of the deltas, in the given order."""
        index = torch.tensor(list(kept))
        return Grams(
            tuple(self.names[each] for each in kept),
            {name: gram[index][:, index] for name, gram in self.by_tensor.items()},
        )


def cosines(gram: torch.Tensor) -> torch.Tensor:
    """Cosines from inner products; NaN where one of the two is zero."""
    sizes = gram.diagonal().sqrt()
    return (gram / sizes[:, None] / sizes).clamp(-1, 1)


def _quantiles(values: torch.Tensor) -> tuple[float, float, float] | None:
    if not len(values):
        return None
    low, middle, high = values.quantile(torch.tensor(QUANTILES, dtype=values.dtype)).tolist()
    return low, middle, high


def measure_grams(
    base: Model, deltas: Sequence[Delta], progress: Progress | None = None, threads: int | None = None
) -> Grams:
    """Reads everything once.

    Args:
        base: what the deltas change.
        deltas: of that base.
        progress: is told of every tensor.
        threads: None = the usual number; the result does not depend on it.

    Raises:
        MergeError: a value is NaN or infinite, with the name of its model and tensor.
    """
    names = [name for name in base.entries if any(delta.changes(name) for delta in deltas)]
    largest_first = sorted(names, key=lambda name: (-count_of(base.entries[name]), name))
    with (progress or Progress()).track("comparing what the fine-tunes changed", len(names)) as advance:

        def work(name: str) -> torch.Tensor:
            gram = tensor_gram(name, base, deltas)
            advance()
            return gram

        found = in_threads(work, largest_first, usual_threads() if threads is None else threads)
    by_tensor = dict(zip(largest_first, found, strict=True))
    return Grams(tuple(delta.name for delta in deltas), {name: by_tensor[name] for name in names})


def tensor_gram(name: str, base: Model, deltas: Sequence[Delta]) -> torch.Tensor:
    """Inner products of the deltas of one tensor, float64 [deltas, deltas]."""
    gram = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    for _, _, piece in walk(name, base, deltas):
        gram += piece @ piece.T
    return gram
