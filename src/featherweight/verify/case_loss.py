"""What a group of cases lost: by item, with its interval, its bound and its test.

Items are independent, the several ways in which one is asked are not. An item that is asked k times therefore counts
once, with the share of its k cases that were lost and gained. Tests need whole numbers: towards passing, the sum of
lost shares is rounded up and that of gained shares down, towards failing the other way round. With one case an item
nothing is rounded.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from featherweight.core.rates import Interval, Rate
from featherweight.measure.quality import resampled_mean
from featherweight.verify.non_inferiority import loss_below, upper_bound
from featherweight.verify.paired_statistics import Paired, mcnemar, newcombe
from featherweight.verify.safety_pairs import Pair

_Signs = tuple[bool, bool, bool, bool, bool, bool]


@dataclass(frozen=True)
class Shares:
    """What became of an item, as shares of the ways in which it was asked; of several items, the sums.

    Attributes:
        both, lost, gained: hold for both models, for the parent only, for the child only.
        doubtful: may hide a loss.
        sure_loss, sure_gain: lost and gained without an error or an unparsed answer of the parent.
    """

    both: Fraction
    lost: Fraction
    gained: Fraction
    doubtful: Fraction
    sure_loss: Fraction
    sure_gain: Fraction


@dataclass(frozen=True)
class CaseLoss:
    """The pairs of a group and what follows from them."""

    pairs: tuple[Pair, ...]

    @functools.cached_property
    def table(self) -> Paired:
        """Of the cases: both, lost (n10), gained (n01), neither."""
        return Paired.of((each.parent_holds, each.child_holds) for each in self.pairs)

    @functools.cached_property
    def items(self) -> dict[str, Shares]:
        """What became of each item."""
        return {name: _shares(signs) for name, signs in self._signs.items()}

    @functools.cached_property
    def _signs(self) -> dict[str, tuple[_Signs, ...]]:
        found: dict[str, list[_Signs]] = {}
        for each in self.pairs:
            found.setdefault(each.parent.item or each.parent.id, []).append(_signs(each))
        return {name: tuple(signs) for name, signs in found.items()}

    @functools.cached_property
    def total(self) -> Shares:
        """Sums over items."""
        counts = Counter(self._signs.values())
        sums = [Fraction()] * 6
        for signs, count in counts.items():
            shares = _shares(signs).__dict__.values()
            sums = [before + count * each for before, each in zip(sums, shares, strict=True)]
        return Shares(*sums)

    @property
    def count(self) -> int:
        """Items, which are what tests count."""
        return len(self._signs)

    @property
    def loss(self) -> float:
        """Mean over items of what was lost less what was gained."""
        return float((self.total.lost - self.total.gained) / self.count)

    @property
    def parent_rate(self) -> float:
        """Mean over items of what held for the parent."""
        return float((self.total.both + self.total.lost) / self.count)

    @functools.cached_property
    def interval(self) -> Interval:
        """95 %: Newcombe's where every item is one case, else by bootstrap over items.

        Items that are all alike have nothing to resample; there it is Newcombe's of the table of items.
        """
        if self.count == len(self.pairs):
            return newcombe(self.table)
        values = [float(each.lost - each.gained) for each in self.items.values()]
        return newcombe(self.worst) if len(set(values)) == 1 else resampled_mean(values)

    @functools.cached_property
    def worst(self) -> Paired:
        """The table of items that decides whether the child passes: doubt is loss, and rounding is against it."""
        lost = math.ceil(self.total.lost + self.total.doubtful)
        gained = math.floor(self.total.sure_gain)
        both = min(math.floor(self.total.both), self.count - lost - gained)
        return Paired(both, lost, gained, self.count - lost - gained - both)

    @property
    def bound(self) -> float:
        """One-sided upper 95 % bound of the loss."""
        return upper_bound(self.worst.lost, self.worst.gained, self.count)

    def below(self, margin: float) -> bool:
        """Whether the loss is shown to be below a margin."""
        return loss_below(self.worst.lost, self.worst.gained, self.count, margin)

    @property
    def mcnemar(self) -> float:
        """One-sided p of there being a loss."""
        return mcnemar(math.floor(self.total.sure_loss), math.ceil(self.total.gained))

    @property
    def doubtful(self) -> int:
        """Cases that may hide a loss."""
        return sum(each.doubtful for each in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "items": self.count,
            "cases": len(self.pairs),
            "parent": Rate(self.table.parent, len(self.pairs)).to_dict(),
            "child": Rate(self.table.child, len(self.pairs)).to_dict(),
            "lost": self.table.lost,
            "gained": self.table.gained,
            "doubtful": self.doubtful,
            "loss": self.loss,
            "loss_interval": list(self.interval),
            "loss_bound": self.bound,
            "mcnemar": self.mcnemar,
            "labels": {
                who: dict(Counter(getattr(each, who).called for each in self.pairs)) for who in ("parent", "child")
            },
        }


def _signs(each: Pair) -> _Signs:
    """Whether a pair counts for each of the shares, in their order."""
    parent, child = each.parent_holds, each.child_holds
    lost, gained = parent and not child, child and not parent
    sure_loss = lost and each.child.label is not None
    return parent and child, lost, gained, each.doubtful, sure_loss, gained and each.parent_known


@functools.lru_cache(maxsize=65536)
def _shares(signs: tuple[_Signs, ...]) -> Shares:
    return Shares(*(Fraction(sum(each), len(signs)) for each in zip(*signs, strict=True)))
