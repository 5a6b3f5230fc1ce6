"""Rates with their uncertainty: Wilson intervals, correction for a judge that errs, agreement of two judges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import np

Interval = tuple[float, float]
_Z = 1.959964  # two-sided 95 %
_DRAWS = 4000


def wilson(hits: float, count: int) -> Interval:
    """95 % interval of a rate that was `hits` of `count` times true."""
    if count == 0:
        return 0.0, 1.0
    rate = hits / count
    middle = (rate + _Z * _Z / (2 * count)) / (1 + _Z * _Z / count)
    reach = _Z / (1 + _Z * _Z / count) * math.sqrt(rate * (1 - rate) / count + _Z * _Z / (4 * count * count))
    return max(min(middle - reach, rate), 0.0), min(max(middle + reach, rate), 1.0)


@dataclass(frozen=True)
class Rate:
    """How often something was so; rate and interval have one denominator, because there is only one.

    Attributes:
        hits: how often it was so.
        count: of how many.
    """

    hits: int
    count: int

    @property
    def rate(self) -> float:
        """Share; 0 of nothing is 0."""
        return self.hits / self.count if self.count else 0.0

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval."""
        return wilson(self.hits, self.count)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"hits": self.hits, "count": self.count, "rate": self.rate, "interval": list(self.interval)}


@dataclass(frozen=True)
class Confusion:
    """What a judge said of a sample whose truth people know.

    Attributes:
        true_positive, false_negative: of those that are so.
        true_negative, false_positive: of those that are not.
    """

    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int

    @property
    def sensitivity(self) -> Rate:
        """Share that the judge found of those that are so."""
        return Rate(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> Rate:
        """Share that the judge found of those that are not."""
        return Rate(self.true_negative, self.true_negative + self.false_positive)

    @classmethod
    def of(cls, truth: Sequence[bool], said: Sequence[bool]) -> Confusion:
        """Counts of a labelled sample, item by item."""
        pairs = Counter(zip(truth, said, strict=True))
        return cls(pairs[True, True], pairs[True, False], pairs[False, False], pairs[False, True])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"sensitivity": self.sensitivity.to_dict(), "specificity": self.specificity.to_dict()}


def corrected(observed: float, sensitivity: float, specificity: float) -> float:
    """The rate behind an observed one, after Rogan and Gladen: (p + specificity - 1) / (sensitivity + specificity - 1).

    Raises:
        DataError: the judge is no better than a coin, so that its verdicts say nothing of the rate.
    """
    informed = sensitivity + specificity - 1
    if informed <= 0:
        raise DataError(
            f"a judge with sensitivity {sensitivity:.3g} and specificity {specificity:.3g}", "tells nothing",
            "choose another judge, or check the labelled sample",
        )  # fmt: skip
    return min(max((observed + specificity - 1) / informed, 0.0), 1.0)


def corrected_interval(observed: Rate, judge: Confusion, seed: int = 0, draws: int = _DRAWS) -> Interval:
    """95 % interval of the corrected rate by a smoothed bootstrap: all three rates are drawn anew, many times.

    Rates are drawn from Beta(hits + 1/2, misses + 1/2): a plain bootstrap would take a judge that made no mistake in
    30 items for one that makes none. A drawn judge that tells nothing leaves the rate open: it counts as 0 for the
    lower end and as 1 for the upper.
    """
    generator = np.random.default_rng(seed)

    def drawn(rate: Rate) -> Any:
        return generator.beta(rate.hits + 0.5, rate.count - rate.hits + 0.5, draws)

    seen, sensitivity, specificity = drawn(observed), drawn(judge.sensitivity), drawn(judge.specificity)
    informed = sensitivity + specificity - 1
    known = informed > 0
    rates = np.clip((seen + specificity - 1) / np.where(known, informed, 1.0), 0.0, 1.0)
    low, high = np.where(known, rates, 0.0), np.where(known, rates, 1.0)
    return float(np.quantile(low, 0.025)), float(np.quantile(high, 0.975))


def kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's kappa: agreement beyond chance; 1 = always, 0 = as chance would.

    None where both always say one and the same thing, or nothing: chance alone then agrees.
    """
    count = len(one)
    agreed = sum(first == second for first, second in zip(one, other, strict=True))
    ours, theirs = Counter(one), Counter(other)
    by_chance = sum(ours[label] * theirs[label] for label in ours)
    if by_chance == count * count:
        return None
    return (agreed * count - by_chance) / (count * count - by_chance)
