"""Break-even of data selection: does choosing a part of the data save more than scoring all of it costs?

Costs are in forward passes a sample: a forward 1, a backward 2. Training on a fraction f for E epochs costs
score + 3 f E against 3 E, so selection saves computation iff f < 1 - score / (3 E). With one epoch, scores by gradients
(cost 3) never pay unless they are used again or come from a smaller model. It says nothing of quality: whether the
chosen part teaches as much is another question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featherweight.core.errors import RecipeError

FORWARD, BACKWARD = 1.0, 2.0
_STEP = FORWARD + BACKWARD
Score = Literal["loss", "gradient", "cached"]
_COSTS: dict[str, float] = {"loss": FORWARD, "gradient": _STEP, "cached": 0.0}


@dataclass(frozen=True)
class Selection:
    """A way to choose data.

    Attributes:
        score: what is computed of every sample.
        epochs: passes over what is kept.
        proxy: cost of a pass of the model that scores, relative to the trained one.
        uses: trainings that share the scores.
    """

    score: Score
    epochs: float = 1.0
    proxy: float = 1.0
    uses: int = 1

    def __post_init__(self) -> None:
        if self.score not in _COSTS:
            raise RecipeError(f"score {self.score!r}", "is unknown", f"use one of {', '.join(_COSTS)}")
        if self.epochs <= 0 or self.proxy < 0 or self.uses < 1:
            raise RecipeError(str(self), "makes no sense", "give epochs above 0, proxy from 0 up, uses from 1 up")

    @property
    def scoring(self) -> float:
        """Forward passes a sample of the pool that one training pays for scores."""
        return _COSTS[self.score] * self.proxy / self.uses

    def cost(self, fraction: float) -> float:
        """Forward passes a sample of the pool, scoring and training together."""
        return self.scoring + _STEP * fraction * self.epochs

    @property
    def break_even(self) -> float:
        """The fraction below which selection is cheaper than training on everything; 0 or less = none is."""
        return 1 - self.scoring / (_STEP * self.epochs)

    def pays(self, fraction: float) -> bool:
        """Whether keeping that fraction costs less than training on everything for as many epochs."""
        return fraction < self.break_even
