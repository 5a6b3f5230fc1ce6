"""Order of steps: each step's own damage, both orders of a pair, and what the intensity rule would have said.

Metric M = -log perplexity on the probe rows (higher is better). Intensity of a step is its loss of M alone; the gap is
G = M(f1 alone) - M(f2 alone); the advantage A(f1 -> f2) = M(f1 first) - M(f2 first); the compression-equivalent ratio
C* is the ratio 16 / bits at which rounding alone would lose as much. The rule "weaker first" (arXiv 2603.18426) only
proposes; the measurement decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique

Measure = Callable[[Recipe], float]
"""Mean negative log-likelihood, nats a token, of the model that a recipe makes."""


@dataclass(frozen=True)
class OrderPair:
    """Two adjacent steps in both orders; losses in nats a token above the parent.

    Attributes:
        first, second: names of the steps in the order that the rule proposes.
        loss_first, loss_second: each step alone (its intensity).
        loss_proposed, loss_reversed: both steps, in the proposed and in the reversed order.
        ratio_first, ratio_second: compression-equivalent ratios C*.
    """

    first: str
    second: str
    loss_first: float
    loss_second: float
    loss_proposed: float
    loss_reversed: float
    ratio_first: float
    ratio_second: float

    @property
    def gap(self) -> float:
        """G = M(first alone) - M(second alone); positive when the second step is the stronger one."""
        return self.loss_second - self.loss_first

    @property
    def advantage(self) -> float:
        """A(first -> second); positive when the proposed order is the better one."""
        return self.loss_reversed - self.loss_proposed

    @property
    def better(self) -> str:
        """Which order lost less, "proposed" or "reversed"."""
        return "proposed" if self.advantage >= 0 else "reversed"

    @property
    def earlier(self) -> str:
        """Name of the step that had better come first."""
        return self.first if self.better == "proposed" else self.second

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.__dict__, "gap": self.gap, "advantage": self.advantage, "better": self.better}


def compare_orders(one: Technique, other: Technique, parent_nll: float, measure: Measure, curve: Curve) -> OrderPair:
    """Measures two steps alone and in both orders; ties keep the given order.

    Args:
        one: a step.
        other: another step.
        parent_nll: of the untouched model on the same tokens.
        measure: runs a recipe and gives its negative log-likelihood.
        curve: loss of rounding alone by bits a weight.
    """
    pair = [(measure(Recipe((step,))) - parent_nll, step) for step in (one, other)]
    (weaker, first), (stronger, second) = sorted(pair, key=lambda each: each[0])
    return OrderPair(
        first.name,
        second.name,
        weaker,
        stronger,
        measure(Recipe((first, second))) - parent_nll,
        measure(Recipe((second, first))) - parent_nll,
        curve.ratio(weaker),
        curve.ratio(stronger),
    )


@dataclass(frozen=True)
class Curve:
    """Loss of rounding alone against bits a weight, for reading off compression-equivalent ratios.

    Attributes:
        points: (bits a weight, loss in nats), any order; a loss that rises with bits is flattened.
    """

    points: Sequence[tuple[float, float]]

    @classmethod
    def of(cls, table: Mapping[str, Mapping[str, float]], bits: Mapping[str, float]) -> Curve:
        """From a sensitivity table: all tensors in one format at a time."""
        return cls([(bits[kind], sum(row.get(kind, math.inf) for row in table.values())) for kind in bits])

    def ratio(self, loss: float) -> float:
        """16 / bits at which rounding alone loses `loss`, by linear interpolation in log loss; clamped at the ends."""
        known = sorted((bits, max(each, 1e-9)) for bits, each in self.points if math.isfinite(each))
        falling: list[tuple[float, float]] = []
        for bits, each in reversed(known):  # from many bits to few: the loss may only grow
            falling.append((bits, max(each, falling[-1][1] if falling else each)))
        target = math.log(max(loss, 1e-9))
        if target <= math.log(falling[0][1]):
            return 16 / falling[0][0]
        for (bits_high, low), (bits_low, high) in itertools.pairwise(falling):
            if target <= math.log(high):
                span = math.log(high) - math.log(low)
                share = (target - math.log(low)) / span if span else 0.0
                return 16 / (bits_high + share * (bits_low - bits_high))
        return 16 / falling[-1][0]
