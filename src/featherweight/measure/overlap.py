"""How much several masks over the same weights have in common, beside what independent masks would have.

Numbers only. The Jaccard index of two masks is |both| / |either|. Two independent masks of density d share
J0 = d / (2 - d), so the index alone says little: it falls with the density whatever the masks do. `excess` sets it
between that baseline (0) and equality (1). The source (arXiv 2601.22141) takes a sharp change of the similarity over
the sparsity, up in one place and down in another, as the sign that subnetworks collapse; `trend_break` is the size of
such a change, in either direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featherweight.core.lazy import torch

Masks = Mapping[str, "torch.Tensor"]
"""bool, by parameter name."""


def jaccard(first: torch.Tensor, second: torch.Tensor) -> float:
    """|both| / |either| of two masks; 1 where both are empty."""
    either = int((first | second).sum())
    return int((first & second).sum()) / either if either else 1.0


def independent_jaccard(density: float) -> float:
    """The Jaccard index expected of two independent masks of this density."""
    return density / (2 - density)


def union_of(masks: Sequence[Masks]) -> dict[str, torch.Tensor]:
    """Which weights at least one of the masks keeps."""
    return {name: torch.stack([mask[name] for mask in masks]).any(0) for name in masks[0]}


def count(masks: Masks) -> int:
    """Weights that a mask keeps."""
    return sum(int(mask.sum()) for mask in masks.values())


def size(masks: Masks) -> int:
    """Weights that a mask speaks of."""
    return sum(mask.numel() for mask in masks.values())


@dataclass(frozen=True)
class Overlap:
    """What masks have in common.

    Attributes:
        density: mean share of weights that a mask keeps.
        union: weights that at least one mask keeps.
        jaccard: mean over all pairs; 1 for a single mask.
        independent: J0 at this density.
        excess: (jaccard - independent) / (1 - independent).
        pairs: the Jaccard index of each pair, by "first/second".
        tensors: the mean over all pairs, by parameter name.
    """

    density: float
    union: int
    jaccard: float
    independent: float
    excess: float
    pairs: Mapping[str, float]
    tensors: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def overlap_of(masks: Mapping[str, Masks]) -> Overlap:
    """The overlap of masks given by the name of what they are for."""
    every = list(masks.values())
    density = sum(count(mask) for mask in every) / (len(every) * size(every[0]))
    whole = {name: torch.cat([part.flatten() for part in mask.values()]) for name, mask in masks.items()}
    pairs = {f"{one}/{two}": jaccard(whole[one], whole[two]) for one, two in itertools.combinations(masks, 2)}
    tensors = {
        name: _mean(jaccard(one[name], two[name]) for one, two in itertools.combinations(every, 2)) for name in every[0]
    }
    mean, independent = _mean(pairs.values()), independent_jaccard(density)
    excess = (mean - independent) / (1 - independent) if independent < 1 else 0.0
    return Overlap(density, count(union_of(every)), mean, independent, excess, pairs, tensors)


def trend_break(values: Sequence[float]) -> float:
    """How far the last value lies from the line through the two before it; 0 with fewer than three."""
    return abs(values[-1] - 2 * values[-2] + values[-3]) if len(values) > 2 else 0.0


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 1.0
