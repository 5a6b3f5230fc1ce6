"""Two models on the same cases: what the child lost and gained, with exact tests. Knows counts, and nothing of models.

A case either holds (a refusal that was due, an answer that was due) or does not. Of N cases `lost` hold for the parent
only and `gained` for the child only; the loss is (lost - gained) / N. Cases are independent of each other; one that is
asked in several ways counts once. References: McNemar 1947 (exact form), Newcombe 1998 (method 10), Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.core.rates import Interval, Rate, wilson


@dataclass(frozen=True)
class Paired:
    """The two-by-two table of N cases.

    Attributes:
        both: hold for both models.
        lost: for the parent only (n10).
        gained: for the child only (n01).
        neither: for none.
    """

    both: int
    lost: int
    gained: int
    neither: int

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> Paired:
        """Counts (parent holds, child holds) of every case."""
        every = list(outcomes)
        return cls(*(every.count(each) for each in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def count(self) -> int:
        """N."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def parent(self) -> int:
        """Cases that hold for the parent."""
        return self.both + self.lost

    @property
    def child(self) -> int:
        """Cases that hold for the child."""
        return self.both + self.gained

    @property
    def loss(self) -> float:
        """(lost - gained) / N; 0 of no cases."""
        return (self.lost - self.gained) / self.count if self.count else 0.0

    def swapped(self) -> Paired:
        """The same with the models in each other's place."""
        return Paired(self.both, self.gained, self.lost, self.neither)

    def to_dict(self) -> dict[str, Any]:
        """Counts, rates with Wilson intervals, the loss with Newcombe's, McNemar's p; plain JSON values."""
        return {
            "count": self.count,
            "lost": self.lost,
            "gained": self.gained,
            "parent": Rate(self.parent, self.count).to_dict(),
            "child": Rate(self.child, self.count).to_dict(),
            "loss": self.loss,
            "loss_interval": list(newcombe(self)),
            "mcnemar": mcnemar(self.lost, self.gained),
        }


def mcnemar(lost: int, gained: int) -> float:
    """Chance of at least so many losses among these changes if a change were as often a gain; 1 of no change."""
    changed = lost + gained
    return sum(math.comb(changed, each) for each in range(lost, changed + 1)) / 2**changed


def newcombe(paired: Paired) -> Interval:
    """95 % interval of the loss from both rates' Wilson intervals and their correlation (method 10)."""
    if paired.count == 0:
        return -1.0, 1.0
    one, other = paired.parent / paired.count, paired.child / paired.count
    below, above = wilson(paired.parent, paired.count)
    lower, upper = wilson(paired.child, paired.count)
    tied = _correlation(paired)
    down = _combined(one - below, upper - other, tied)
    up = _combined(above - one, other - lower, tied)
    return max(paired.loss - down, -1.0), min(paired.loss + up, 1.0)


def _combined(one: float, other: float, tied: float) -> float:
    return math.sqrt(max(one**2 - 2 * tied * one * other + other**2, 0.0))


def _correlation(paired: Paired) -> float:
    """Phi of the table with Newcombe's correction for continuity; 0 where a margin is empty."""
    margins = paired.parent * (paired.count - paired.parent) * paired.child * (paired.count - paired.child)
    if margins == 0:
        return 0.0
    excess: float = paired.both * paired.neither - paired.lost * paired.gained
    if excess > 0:
        excess = max(excess - paired.count / 2, 0.0)
    return excess / math.sqrt(margins)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for there being several, in their own order; each stays at most 1."""
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(values, key=lambda each: (values[each], each))):
        highest = max(highest, min((len(values) - rank) * values[name], 1.0))
        corrected[name] = highest
    return {name: corrected[name] for name in values}
