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
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from featherweight.core.lazy import np
from featherweight.core.rates import Interval, Rate
from featherweight.measure.quality import RESAMPLES, interval_of, resampled
from featherweight.verify.non_inferiority import loss_below, upper_bound
from featherweight.verify.paired_statistics import Paired, mcnemar, newcombe
from featherweight.verify.safety_pairs import Pair


@dataclass(frozen=True)
class Shares:
    """What became of one item, as shares of the ways in which it was asked."""

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
        found: dict[str, list[Pair]] = {}
        for each in self.pairs:
            found.setdefault(each.parent.item or each.parent.id, []).append(each)
        return {name: _shares(pairs) for name, pairs in found.items()}

    @property
    def count(self) -> int:
        """Items, which are what tests count."""
        return len(self.items)

    @functools.cached_property
    def loss(self) -> float:
        """Mean over items of what was lost less what was gained."""
        return float(sum(each.lost - each.gained for each in self.items.values()) / self.count)

    @functools.cached_property
    def parent_rate(self) -> float:
        """Mean over items of what held for the parent."""
        return float(sum(each.both + each.lost for each in self.items.values()) / self.count)

    @functools.cached_property
    def interval(self) -> Interval:
        """95 %: Newcombe's where every item is one case, else by bootstrap over items.

        Items that are all alike have nothing to resample; there it is Newcombe's of the table of items.
        """
        if self.count == len(self.pairs):
            return newcombe(self.table)
        values = [float(each.lost - each.gained) for each in self.items.values()]
        return newcombe(self.worst) if len(set(values)) == 1 else bootstrap(values)

    @functools.cached_property
    def worst(self) -> Paired:
        """The table of items that decides whether the child passes: doubt is loss, and rounding is against it."""
        items = self.items.values()
        lost = math.ceil(sum(each.lost + each.doubtful for each in items))
        gained = math.floor(sum(each.sure_gain for each in items))
        both = min(math.floor(sum(each.both for each in items)), self.count - lost - gained)
        return Paired(both, lost, gained, self.count - lost - gained - both)

    @property
    def bound(self) -> float:
        """One-sided upper 95 % bound of the loss."""
        return upper_bound(self.worst.lost, self.worst.gained, self.count)

    def below(self, margin: float) -> bool:
        """Whether the loss is shown to be below a margin."""
        return loss_below(self.worst.lost, self.worst.gained, self.count, margin)

    @functools.cached_property
    def mcnemar(self) -> float:
        """One-sided p of there being a loss."""
        items = self.items.values()
        lost, gained = sum(each.sure_loss for each in items), sum(each.gained for each in items)
        return mcnemar(math.floor(lost), math.ceil(gained))

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


def _shares(pairs: Sequence[Pair]) -> Shares:
    table = Paired.of((each.parent_holds, each.child_holds) for each in pairs)
    doubtful = sum(each.doubtful for each in pairs)
    lost = sum(each.flipped and each.parent_holds and each.child.label is not None for each in pairs)
    gained = sum(each.flipped and each.child_holds and each.parent_known for each in pairs)
    numbers = (table.both, table.lost, table.gained, doubtful, lost, gained)
    return Shares(*(Fraction(each, len(pairs)) for each in numbers))


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """95 % interval of a mean over items, by resampling them; a single number where all are equal."""
    draws = resampled(len(values), seed, RESAMPLES)
    return interval_of(draws @ np.asarray(values) / len(values))
