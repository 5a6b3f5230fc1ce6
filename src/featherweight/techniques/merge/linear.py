"""Linear merge (model soup): the weighted mean of fine-tunes, sum of w_i theta_i over sum of w_i.

With `normalize` off it is the weighted sum of the models themselves, theta_0 not added; both as mergekit's `linear`
has it. arXiv 2203.05482. A control of `orthogonal-deltas`. Cost: one pass over the models, a stretch of each in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from featherweight.core.errors import RecipeError
from featherweight.core.technique import Paper, technique
from featherweight.train.merge_technique import SummingMerge


@technique
class Linear(SummingMerge):
    """Averages fine-tunes of one model."""

    paper: ClassVar[Paper] = Paper(
        "2203.05482",
        "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference "
        "time",
    )

    normalize: bool = Field(True, description="divide by the sum of the weights")

    def scaled(self, weights: Sequence[float]) -> list[float]:
        if not self.normalize:
            return list(weights)
        total = sum(weights)
        if abs(total) < 1e-8:
            raise RecipeError(
                f"{self.name}.weight = {list(weights)}", "add up to nothing", "give weights whose sum is not 0"
            )
        return [weight / total for weight in weights]

    def share(self, weights: Sequence[float]) -> float:
        return 1.0 if self.normalize else float(sum(weights))
