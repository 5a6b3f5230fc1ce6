"""Where the next unit of money goes: what a step of each factor gains for what it costs, in one unit.

A step is one more training run with the better backbone, with the better objective, or with twice as much data. The
gain of a choice is the distance of the best level from the mean of all, that of data is the slope of a doubling. The
cost is the price of a run, in proportion to its operations, and for data the price of as many rows again as the largest
amount that was tried. Rows cost nothing unless somebody says so: that favours data, so a verdict for another factor is
on the safe side.

Money goes to the factor with the largest lower confidence bound, if that is above zero: a gain that chance may have
made is worth nothing. Since the best of k levels was picked, and the best of f factors is, a bound leaves 2.5 % / (k f)
below it: on grids of noise (200 each of 36, 54 and 90 cells) some factor was recommended in 5 % of the cases.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.errors import RecipeError
from featherweight.plan.attribution import BACKBONE, LEVEL_OF, OBJECTIVE, ROWS, Attribution, Estimate
from featherweight.plan.grid import Outcome

_TAIL = 0.025
_NOTHING = 1e-9  # a bound below it is rounding


@dataclass(frozen=True)
class Prices:
    """What things cost, in any one unit.

    Attributes:
        run: a training of average size.
        row: one more row of data.
    """

    run: float = 1.0
    row: float = 0.0

    def __post_init__(self) -> None:
        if self.run <= 0 or self.row < 0:
            raise RecipeError(
                f"a price of {self.run:g} a run and {self.row:g} a row", "is no price",
                "give a run more than nothing, and a row nothing or more",
            )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What one step of a factor brings.

    Attributes:
        factor: BACKBONE, OBJECTIVE or ROWS.
        what: the step, in words.
        gain: in score.
        cost: in the unit of the prices.
        value: gain a unit of cost.
    """

    factor: str
    what: str
    gain: Estimate
    cost: float
    value: Estimate


@dataclass(frozen=True)
class Advice:
    """Steps by their lower bound, the best first, and what to do."""

    steps: tuple[Step, ...]
    spend_on: str | None
    reason: str


def advice(fit: Attribution, outcomes: Sequence[Outcome], prices: Prices) -> Advice:
    """What to spend on next.

    Args:
        fit: of the cells' scores.
        outcomes: those cells.
        prices: of a run and of a row.
    """
    average = statistics.fmean(each.trial.flops for each in outcomes) or 1.0

    def run_cost(factor: str, level: str) -> float:
        those = [each.trial.flops for each in outcomes if LEVEL_OF[factor](each.cell) == level]
        return prices.run * statistics.fmean(those) / average

    choices = [factor for factor in (BACKBONE, OBJECTIVE) if len(fit.levels[factor]) > 1]
    amounts = {each.cell.rows for each in outcomes}
    tail, steps = _TAIL / max(len(choices) + (len(amounts) > 1), 1), []
    for factor in choices:
        best = max(fit.levels[factor], key=lambda level: fit.effect(factor, level).value)
        gain = fit.effect(factor, best, tail / len(fit.levels[factor]))
        steps.append(_step(factor, f"{best} instead of any", gain, run_cost(factor, best)))
    if len(amounts) > 1:
        what, cost = f"twice the rows ({2 * max(amounts):,})", prices.run + max(amounts) * prices.row
        steps.append(_step(ROWS, what, fit.effect(ROWS, tail=tail), cost))
    steps.sort(key=lambda each: -each.value.interval[0] if each.value.interval[0] == each.value.interval[0] else 1e9)
    return Advice(tuple(steps), *_verdict(steps))


def _step(factor: str, what: str, gain: Estimate, cost: float) -> Step:
    low, high = gain.interval
    return Step(factor, what, gain, cost, Estimate(gain.value / cost, (low / cost, high / cost)))


def _verdict(steps: Sequence[Step]) -> tuple[str | None, str]:
    """The factor to spend on, and why."""
    if not steps:
        return None, "nothing was varied"
    best = steps[0]
    low = best.value.interval[0]
    if low != low:
        return None, "the grid is too small to tell gains from chance: add seeds"
    if low <= _NOTHING:
        return None, "no gain is beyond chance: no factor is worth paying for on this evidence"
    return best.factor, f"{best.what} gains at least {low:.3g} a unit of cost, more than any other step surely does"
