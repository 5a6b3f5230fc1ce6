"""Task arithmetic: theta_0 + lambda * sum of w_i D_i. arXiv 2212.04089.

The same as `orthogonal-deltas` without the projection, and its first control. A weight below zero takes a task away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from featherweight.core.errors import RecipeError
from featherweight.core.technique import Paper, technique
from featherweight.train.fitted_merge import FittedMerge


@technique
class TaskArithmetic(FittedMerge):
    """Adds what fine-tunes of one model changed."""

    paper: ClassVar[Paper] = Paper("2212.04089", "Editing Models with Task Arithmetic")

    normalize: bool = Field(False, description="divide by the sum of the weights")
    lambda_: float = Field(1.0, description="factor of the whole change; mergekit's lambda")

    @model_validator(mode="after")
    def _fits_what_it_merges(self) -> Self:
        if self.normalize and self.fit != "none":
            raise RecipeError(f"fit = {self.fit}", "cannot fit weights that are normalised", "set normalize to false")
        return self

    def scaled(self, weights: Sequence[float]) -> list[float]:
        total = sum(weights) if self.normalize else 1.0
        factor = self.lambda_ / (total if abs(total) >= 1e-8 else 1.0)
        return [weight * factor for weight in weights]
