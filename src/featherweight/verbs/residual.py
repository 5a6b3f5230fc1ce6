"""What remains of a fine-tune in a model: the part of the model's change that lies along the fine-tune's.

Not zero after an exact unmerge either, where other fine-tunes share a direction with it: that is theirs. What says how
much of it is left over is the distance to the model that was never merged with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.deltas import Delta, ModelDelta
from featherweight.core.gram import Grams, cosines, measure_grams
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.train.merge_technique import SummingMerge


@dataclass(frozen=True)
class Residual:
    """What lies along a removed delta D in a model theta.

    Attributes:
        name: of the delta.
        norm: of D.
        before: cosine of theta - theta_0 with D while it was merged, and length along D.
        after: the same of the model without it; None = D is not there any more, so nothing was measured. A model
            that is the base has no cosine: NaN.
    """

    name: str
    norm: float
    before: tuple[float, float] | None = None
    after: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what does not exist is None."""
        return {
            "name": self.name,
            "norm": self.norm,
            **{
                when: pair and {"cosine": None if math.isnan(pair[0]) else pair[0], "along": pair[1]}
                for when, pair in (("before", self.before), ("after", self.after))
            },
        }


def residual(base: Model, before: Model, after: Model, delta: Delta, progress: Progress | None = None) -> Residual:
    """Measures one; a pass over base, both models and the delta."""
    models = [ModelDelta(name, model.folder, model) for name, model in (("before", before), ("after", after))]
    gram = measure_grams(base, [*models, delta], progress).total
    size, found = math.sqrt(float(gram[2, 2])), cosines(gram)
    along = [(float(found[row, 2]), float(gram[row, 2]) / size if size else 0.0) for row in range(2)]
    return Residual(delta.name, size, along[0], along[1])


def distance_from_rebuild(
    technique: SummingMerge, grams: Grams, weights: Sequence[float], gone: Sequence[int]
) -> float | None:
    """||subtracted - rebuilt|| / ||rebuilt - theta_0||, from inner products alone.

    Args:
        technique: of all models.
        grams: of all deltas.
        weights: of all, that were merged with; the rebuilt model keeps those of the others.
        gone: positions of the removed ones.

    Returns:
        None where the rebuilt model is the base.
    """
    left = [index for index in range(len(grams.names)) if index not in gone]
    if not left:
        return None
    row = torch.tensor(technique.scaled(weights), dtype=torch.float64)
    row[list(gone)] = 0
    whole = technique.basis(grams)
    parts = technique.of(left).coefficients(grams.of(left), [weights[index] for index in left])
    apart, size = [], []
    for name, gram in sorted(grams.by_tensor.items()):
        rebuilt = torch.zeros_like(row)
        rebuilt[left] = torch.tensor(parts[name], dtype=torch.float64)
        difference = row @ whole[name] - rebuilt
        apart.append(float(difference @ gram @ difference))
        size.append(float(rebuilt @ gram @ rebuilt))
    total = math.fsum(size)
    return math.sqrt(max(math.fsum(apart), 0.0) / total) if total > 0 else None
