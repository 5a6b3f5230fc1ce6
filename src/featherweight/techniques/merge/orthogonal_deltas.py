"""MDM-OC: each fine-tune's change is made orthogonal to those before it, then theta_M = theta_0 + sum of a_i Q_i.

Q_i = D_i - sum over j < i of <D_i, Q_j> / ||Q_j||^2 Q_j by modified Gram-Schmidt in float64, in the order of arrival,
tensor by tensor (which implies orthogonality of the whole) or over the whole model. Coefficients a_i are 1, given, or
fitted on small validation sets, by gradient or CMA-ES, with an EWC penalty and replay as options. One task with a = 1
is that fine-tune; orthogonal changes stay as they are; no projection is `task-arithmetic`. arXiv 2507.20997; no code of
the authors was found: the granularity and the initial 1 are ours.

What it is not: orthogonal weights are not independent functions. Changes of unrelated tasks are nearly orthogonal from
the start, and the cosines that are printed first say when the projection is a no-op; where tasks are alike it deletes
the later one's share of what they have in common, so the order matters. A model is taken out again by `unmerge`:
merging the others anew is exact, subtracting a_k Q_k leaves k's influence on the later Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.deltas import Delta
from featherweight.core.gram import Grams
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.orthogonal import gram_schmidt
from featherweight.core.run import Run
from featherweight.core.technique import Paper, technique
from featherweight.train.fitted_merge import FittedMerge


@technique
class OrthogonalDeltas(FittedMerge):
    """Adds what fine-tunes changed, each made orthogonal to those before it, so that one can be taken out again."""

    paper: ClassVar[Paper] = Paper(
        "2507.20997", "MDM-OC: Orthogonal Delta Merging for Scalable and Reversible Model Composition"
    )

    granularity: Literal["tensor", "model"] = Field(
        "tensor",
        description="whether each tensor is made orthogonal, or the model as one vector; the paper does not say",
    )

    def basis(self, grams: Grams) -> dict[str, torch.Tensor]:
        if self.granularity == "model":
            return dict.fromkeys(grams.by_tensor, gram_schmidt(grams.total))
        return {name: gram_schmidt(gram) for name, gram in grams.by_tensor.items()}

    def merged(self, model: Model, deltas: Sequence[Delta], grams: Grams, weights: Sequence[float], run: Run) -> Model:
        dropped = self._dropped(grams)
        for name, tensors in dropped.items():
            run.progress.say(
                f"{name} adds nothing to those before it in {tensors} of {len(grams.by_tensor)} tensors: dropped there"
            )
        if dropped:
            run.note("dropped", dropped)
        return super().merged(model, deltas, grams, weights, run)

    def _dropped(self, grams: Grams) -> dict[str, int]:
        """In how many tensors each delta is a combination of earlier ones, duplicates above all."""
        rows = self.basis(grams).values()
        counts = {name: sum(not bool(row[index].any()) for row in rows) for index, name in enumerate(grams.names)}
        return {name: count for name, count in counts.items() if count}
