"""DARE: values of each change are left out at random and the rest scaled up, then added, or merged as TIES does.

Scaled so that the sum of sizes stays what it was, as mergekit does; the paper divides by the density, which is the same
on average. arXiv 2311.03099. Which values go depends on the seed, the tensor and the fine-tune alone, not on the others
or their order, so that a merge without one of them is what it would have been. A control of `orthogonal-deltas`.
One tensor of each model is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from featherweight.core.combining import with_elected
from featherweight.core.deltas import Delta
from featherweight.core.gram import Grams
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import Paper, technique
from featherweight.core.thinning import keep_some
from featherweight.train.merge_technique import MergeTechnique, Share


@technique
class Dare(MergeTechnique):
    """Merges random values of what fine-tunes changed, scaled up for those that are left out."""

    paper: ClassVar[Paper] = Paper(
        "2311.03099", "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch"
    )
    by_model: ClassVar[tuple[str, ...]] = ("models", "weight", "density")

    variant: Literal["linear", "ties"] = Field("linear", description="add what stays, or elect signs first")
    density: Share | tuple[Share, ...] = Field(
        1.0, description="probability with which a value stays; one number, or one a model"
    )
    rescale: bool = Field(True, description="scale what stays to the sum of sizes before")
    normalize: bool = Field(False, description="divide by the sum of the weights of what takes part")
    lambda_: float = Field(1.0, description="factor of the whole change; mergekit's lambda")

    def merged(self, model: Model, deltas: Sequence[Delta], grams: Grams, weights: Sequence[float], run: Run) -> Model:
        densities = dict(zip(deltas, self.each("density"), strict=True))

        def thin(name: str, delta: Delta, values: torch.Tensor) -> None:
            generator = run.generator(f"{self.name} {delta.digest} {name}")
            keep_some(values, densities[delta], generator, self.rescale)

        elect = self.variant == "ties"
        return with_elected(
            model, deltas, list(grams.by_tensor), thin, weights, elect, self.normalize, self.lambda_, self.dtype
        )
