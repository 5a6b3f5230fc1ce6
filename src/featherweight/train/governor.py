"""Governor: goes on with training while the next unit of cost is predicted to bring enough, and stops it when not.

At every evaluation (cost C, usefulness U) the trailing window is fitted by U = a + b (C^-g - 1) / -g, which saturates
for g > 0 (U_inf = a + b / g), is a logarithm at g = 0 and a straight line at g = -1; the marginal gain is b C^(-g-1).
Where no such curve explains the window, the slope of a line through it stands in, and where not even that stands out
from the noise, the gain is nothing. Training ends when the gain has been at or below the threshold at `patience`
evaluations in a row. Every decision is kept with what it was made from.

It does not know what a falling learning rate will still bring: losses drop at the end of a cosine, so judge under a
constant rate and let the rate fall afterwards. Rule after arXiv 2606.10706 (a survey without a procedure): ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from featherweight.core.errors import RecipeError
from featherweight.core.lazy import np

_EXPLAINS, _STANDS_OUT = 0.9, 0.6
_FEWEST = 4
_EXPONENTS = (-1.0, 4.0)
_POINTS, _ROUNDS = 41, 6


@dataclass(frozen=True)
class Trend:
    """What a window of evaluations says about the next unit of cost.

    Attributes:
        marginal: predicted gain a unit of cost.
        method: where it comes from.
        exponent: g of the curve; None for a line or nothing.
        explained: share of the window's variance that the curve or line explains.
    """

    marginal: float
    method: Literal["curve", "slope", "nothing"]
    exponent: float | None
    explained: float


@dataclass(frozen=True)
class Decision:
    """One evaluation with what was made of it."""

    cost: float
    value: float
    trend: Trend | None
    threshold: float
    below: int
    stop: bool


@dataclass
class Governor:
    """Watches one training.

    Attributes:
        threshold: least gain a unit of cost; None = `share` of the average gain so far, over what is left of the budget
            or what was spent, whichever is more.
        share: of the gain so far that the rest must promise.
        budget: all that may be spent.
        window: evaluations that are looked at.
        patience: evaluations in a row at or below the threshold that end the training.
        log: every decision.
    """

    threshold: float | None = None
    share: float = 0.05
    budget: float | None = None
    window: int = 8
    patience: int = 2
    log: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.window < _FEWEST or self.patience < 1 or not 0 < self.share < 1:
            raise RecipeError(
                f"window {self.window}, patience {self.patience}, share {self.share}", "make no governor",
                f"give a window of at least {_FEWEST}, a patience of at least 1 and a share between 0 and 1",
            )  # fmt: skip

    def observe(self, cost: float, value: float) -> Decision:
        """Takes an evaluation; `value` is larger when better, `cost` grows and is above 0."""
        if cost <= 0 or (self.log and cost <= self.log[-1].cost):
            raise RecipeError(f"cost {cost}", "does not grow from above 0", "give what was spent so far, in any unit")
        costs, values = [*(each.cost for each in self.log), cost], [*(each.value for each in self.log), value]
        trend = trend_of(costs[-self.window :], values[-self.window :]) if len(costs) >= self.window else None
        threshold = self._threshold(cost, value - values[0])
        flat = trend is not None and trend.marginal <= threshold
        below = (self.log[-1].below if self.log else 0) + 1 if flat else 0
        self.log.append(Decision(cost, value, trend, threshold, below, below >= self.patience))
        return self.log[-1]

    def _threshold(self, cost: float, gained: float) -> float:
        if self.threshold is not None:
            return self.threshold
        left = cost if self.budget is None else self.budget - cost
        return self.share * max(gained, 0.0) / max(left, cost)

    @property
    def marginal(self) -> float:
        """The latest predicted gain a unit of cost; without bound until there is a prediction."""
        trend = self.log[-1].trend if self.log else None
        return math.inf if trend is None else trend.marginal

    @property
    def stopped(self) -> bool:
        """Whether it said stop."""
        return bool(self.log) and self.log[-1].stop


def best_arm(arms: Mapping[str, Governor]) -> str | None:
    """What to spend the next unit on: the arm with the largest predicted gain that did not stop; None = stop all."""
    going = {name: each.marginal for name, each in arms.items() if not each.stopped}
    return max(going, key=lambda name: going[name]) if going else None


def stop_when_flat(
    governor: Governor, every: int, evaluate: Callable[[], float] | None = None
) -> Callable[[int, float], bool]:
    """What `minimise` takes as `stop`.

    Args:
        governor: decides; its costs are steps.
        every: steps of a chunk, which makes one evaluation.
        evaluate: a loss on held-out data, say; None = the mean training loss of the chunk.
    """
    losses: list[float] = []

    def stop(step: int, loss: float) -> bool:
        losses.append(loss)
        if (step + 1) % every:
            return False
        value = evaluate() if evaluate else sum(losses) / len(losses)
        losses.clear()
        return governor.observe(step + 1, -value).stop

    return stop


def trend_of(costs: Sequence[float], values: Sequence[float]) -> Trend:
    """The marginal gain at the end of a window."""
    x, y = np.asarray(costs, dtype=float) / costs[-1], np.asarray(values, dtype=float)
    total = float(((y - y.mean()) ** 2).sum())
    if total <= 1e-24 * max(1.0, float((y**2).sum())):
        return Trend(0.0, "nothing", None, 0.0)
    exponent = _best_exponent(x, y)
    slope, left = (float(each[0]) for each in _fitted(_curves(x, np.array([exponent])), y))
    # At the end of the window x = 1, where the curve's derivative is its slope.
    if slope > 0 and 1 - left / total >= _EXPLAINS:
        return Trend(slope / costs[-1], "curve", exponent, 1 - left / total)
    slope, left = (float(each[0]) for each in _fitted(x[None], y))
    explained = 1 - left / total
    if explained >= _STANDS_OUT:
        return Trend(slope / costs[-1], "slope", None, explained)
    return Trend(0.0, "nothing", None, explained)


def _curves(x: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """(x^-g - 1) / -g of every exponent g, [exponents, window]; log x at 0."""
    g, logs = exponents[:, None], np.log(x)
    curves: np.ndarray = np.where(g == 0, logs, np.expm1(-g * logs) / -np.where(g == 0, 1.0, g))
    return curves


def _fitted(curves: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope and squared residual of the line of least squares over each curve."""
    centred, high = curves - curves.mean(1, keepdims=True), y - y.mean()
    slopes = centred @ high / (centred**2).sum(1)
    return slopes, ((high - slopes[:, None] * centred) ** 2).sum(1)


def _best_exponent(x: np.ndarray, y: np.ndarray) -> float:
    """Of least residual: a grid, then a finer one around its best point, and so on."""
    low, high = _EXPONENTS
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, _POINTS)
        best = int(np.argmin(_fitted(_curves(x, grid), y)[1]))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _POINTS - 1)])
    return float(grid[best])
