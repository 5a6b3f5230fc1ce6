"""Which backbone is ahead: ranks averaged over tasks, and whether the order turns around with the amount of data.

Ranks are made within each task, on means over objectives, amounts of data and seeds; tasks are drawn again, the same
ones for every backbone (paired bootstrap), for the interval of a mean rank. Whether an order flips is asked of each
pair of backbones at the smallest and the largest amount: their difference over the same objectives and seeds, paired,
with the rows that judge drawn again.
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


def orders(outcomes: Sequence[Outcome], noise: np.ndarray, seed: int = 0) -> list[Order]:
    """Every pair of backbones; none where there is only one amount of data.

    Args:
        outcomes: cells with a score.
        noise: what other rows that judge would have changed, [draws, cells].
        seed: of the bootstrap.
    """
    rows = sorted({each.cell.rows for each in outcomes})
    names = list(dict.fromkeys(each.cell.backbone for each in outcomes))
    if len(rows) < 2:
        return []
    pairs = _Pairs(outcomes, noise, seed)
    return [_order(pairs, one, other, rows) for one, other in itertools.combinations(names, 2)]


def _order(pairs: _Pairs, one: str, other: str, rows: Sequence[int]) -> Order:
    least, most = (pairs.difference(one, other, each) for each in (rows[0], rows[-1]))
    if least.value < 0:
        one, other, least, most = other, one, _negative(least), _negative(most)
    if most.value >= 0:
        return Order(one, other, least, most, "no")
    return Order(one, other, least, most, "yes" if least.interval[0] > 0 and most.interval[1] < 0 else "perhaps")


@dataclass(frozen=True)
class _Pairs:
    """Cells of two backbones with the same objective, amount and seed."""

    outcomes: Sequence[Outcome]
    noise: np.ndarray
    seed: int

    def difference(self, one: str, other: str, rows: int) -> Estimate:
        """Mean difference over the objectives and seeds that both have."""
        places = {
            (each.cell.backbone, each.cell.objective, each.cell.seed): place
            for place, each in enumerate(self.outcomes)
            if each.cell.rows == rows
        }
        pairs = [
            (place, places[other, objective, seed])
            for (name, objective, seed), place in places.items()
            if name == one and (other, objective, seed) in places
        ]
        if not pairs:
            return Estimate(math.nan, (math.nan, math.nan))
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        scores = np.array([each.score for each in self.outcomes])
        differences = scores[first] - scores[second]
        if len(pairs) < 2:
            return Estimate(float(differences.mean()), (math.nan, math.nan))
        means = resampled(len(pairs), self.seed, RESAMPLES) @ differences / len(pairs)
        moved = (self.noise[:, first] - self.noise[:, second]).mean(1)
        return Estimate(float(differences.mean()), interval_of(means + moved))


def _negative(estimate: Estimate) -> Estimate:
    low, high = estimate.interval
    return Estimate(-estimate.value, (-high, -low))
