"""Which backbone is ahead: ranks averaged over tasks, and whether the order turns around with the amount of data.

Ranks are made within each task, on means over objectives, amounts of data and seeds; tasks are drawn again, the same
ones for every backbone (paired bootstrap), for the interval of a mean rank. Whether an order flips is asked of each
pair of backbones at the smallest and the largest amount: their difference over the same objectives and seeds, paired.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featherweight.core.lazy import np
from featherweight.measure.quality import RESAMPLES, interval_of, resampled
from featherweight.plan.attribution import Estimate
from featherweight.plan.grid import Outcome


@dataclass(frozen=True)
class Standing:
    """A level of a factor among the others.

    Attributes:
        rank: mean over tasks, 1 = first; its interval is (nan, nan) for a single task.
        score: mean over everything.
        baseline: mean of the untrained; None for an objective.
    """

    name: str
    rank: Estimate
    score: float
    baseline: float | None


def standings(
    outcomes: Sequence[Outcome], baselines: Sequence[Outcome], level_of: Callable[[Outcome], str], seed: int = 0
) -> list[Standing]:
    """The levels of a factor, the best first.

    Args:
        outcomes: cells with a score.
        baselines: untrained cells; none for a factor that they do not have.
        level_of: the level of a cell.
        seed: of the bootstrap.
    """
    names = list(dict.fromkeys(level_of(each) for each in outcomes))
    tasks = list(outcomes[0].trial.scores)
    means = np.array([[_mean(outcomes, task, name, level_of) for name in names] for task in tasks])
    ranks = _ranks(means)
    drawn = resampled(len(tasks), seed, RESAMPLES) @ ranks / len(tasks) if len(tasks) > 1 else None
    found = []
    for place, name in enumerate(names):
        interval = (math.nan, math.nan) if drawn is None else interval_of(drawn[:, place])
        untrained = [each.score for each in baselines if level_of(each) == name]
        baseline = statistics.fmean(untrained) if untrained else None
        rank = Estimate(float(ranks[:, place].mean()), interval)
        found.append(Standing(name, rank, float(means[:, place].mean()), baseline))
    return sorted(found, key=lambda each: (each.rank.value, -each.score))


def _mean(outcomes: Sequence[Outcome], task: str, name: str, level_of: Callable[[Outcome], str]) -> float:
    return statistics.fmean(each.trial.scores[task] for each in outcomes if level_of(each) == name)


def _ranks(means: np.ndarray) -> np.ndarray:
    """Ranks in each row, 1 = the highest; equal values share the mean of their ranks."""
    ranks: np.ndarray = np.stack([
        1 + (row > row[:, None]).sum(1) + ((row == row[:, None]).sum(1) - 1) / 2 for row in means
    ])  # fmt: skip
    return ranks


@dataclass(frozen=True)
class Order:
    """Two backbones at both ends of the amounts of data.

    Attributes:
        first, second: `first` is ahead with the least data.
        least, most: score of `first` less that of `second`.
        flips: "yes" where `second` is ahead with the most data and both differences are beyond chance, "perhaps" where
            they are not, "no" where `first` stays ahead.
    """

    first: str
    second: str
    least: Estimate
    most: Estimate
    flips: str


def orders(outcomes: Sequence[Outcome], seed: int = 0) -> list[Order]:
    """Every pair of backbones; none where there is only one amount of data."""
    rows = sorted({each.cell.rows for each in outcomes})
    names = list(dict.fromkeys(each.cell.backbone for each in outcomes))
    if len(rows) < 2:
        return []
    return [_order(outcomes, one, other, rows, seed) for one, other in itertools.combinations(names, 2)]


def _order(outcomes: Sequence[Outcome], one: str, other: str, rows: Sequence[int], seed: int) -> Order:
    least, most = (_difference(outcomes, one, other, each, seed) for each in (rows[0], rows[-1]))
    if least.value < 0:
        one, other, least, most = other, one, _negative(least), _negative(most)
    if most.value >= 0:
        return Order(one, other, least, most, "no")
    return Order(one, other, least, most, "yes" if least.interval[0] > 0 and most.interval[1] < 0 else "perhaps")


def _difference(outcomes: Sequence[Outcome], one: str, other: str, rows: int, seed: int) -> Estimate:
    """Mean difference over the objectives and seeds that both have."""
    scores = {(each.cell.backbone, each.cell.objective, each.cell.seed): each.score
              for each in outcomes if each.cell.rows == rows}  # fmt: skip
    pairs = [
        (score, scores.get((other, objective, seed)))
        for (name, objective, seed), score in scores.items()
        if name == one
    ]
    differences = np.array([score - against for score, against in pairs if against is not None])
    if len(differences) < 2:
        value = float(differences.mean()) if len(differences) else math.nan
        return Estimate(value, (math.nan, math.nan))
    means = resampled(len(differences), seed, RESAMPLES) @ differences / len(differences)
    return Estimate(float(differences.mean()), interval_of(means))


def _negative(estimate: Estimate) -> Estimate:
    low, high = estimate.interval
    return Estimate(-estimate.value, (-high, -low))
