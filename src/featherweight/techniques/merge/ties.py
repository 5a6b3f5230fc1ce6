"""TIES: of each change the largest values stay, signs are elected by their sum, and what agrees is averaged.

theta_0 + lambda * (sum of w_i T(D_i) where its sign is that of the sum over all i) / (sum of these w_i). Trimming is by
tensor; of values of equal size those that come first stay. arXiv 2306.01708, in mergekit's form: weights before signs,
and float32 throughout, because signs of sums near zero depend on it. A control of `orthogonal-deltas`.
One tensor of each model is in memory. Nothing of it can be subtracted: what one model keeps depends on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from featherweight.core.combining import with_elected
from featherweight.core.deltas import Delta
from featherweight.core.gram import Grams
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import Paper, technique
from featherweight.core.thinning import keep_largest
from featherweight.train.merge_technique import MergeTechnique, Share


@technique
class Ties(MergeTechnique):
    """Merges the largest values of what fine-tunes changed, where their signs agree."""

    paper: ClassVar[Paper] = Paper("2306.01708", "TIES-Merging: Resolving Interference When Merging Models")
    by_model: ClassVar[tuple[str, ...]] = ("models", "weight", "density")

    density: Share | tuple[Share, ...] = Field(
        1.0, description="share of each tensor's values that stay; one number, or one a model; the paper's is 0.2"
    )
    rescale: bool = Field(False, description="scale what stays of each tensor to its sum of sizes before")
    normalize: bool = Field(True, description="divide by the weights of those that agree")
    lambda_: float = Field(1.0, description="factor of the whole change; mergekit's lambda")

    def merged(self, model: Model, deltas: Sequence[Delta], grams: Grams, weights: Sequence[float], run: Run) -> Model:
        densities = dict(zip(deltas, self.each("density"), strict=True))

        def thin(name: str, delta: Delta, values: torch.Tensor) -> None:
            keep_largest(values, densities[delta], self.rescale)

        return with_elected(
            model, deltas, list(grams.by_tensor), thin, weights, True, self.normalize, self.lambda_, self.dtype
        )
