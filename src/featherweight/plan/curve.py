"""Loss of rounding alone against bits a weight: the scale on which any step's damage becomes a number of bits.

The compression-equivalent ratio C* of a step is 16 / bits at which rounding to nearest alone would lose as much
(arXiv 2603.18426, which leaves the exact form of the ratio open). It is read off by interpolation, so it means little
where the curve is not monotone, and nothing beyond its ends.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build

Measure = Callable[[Recipe], float]
"""Mean negative log-likelihood, nats a token, of the model that a recipe makes."""

WIDTHS = (8, 6, 5, 4, 3, 2)
FULL_BITS = 16
_LEAST = 1e-9  # losses below it, and gains, count as this much


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

    @classmethod
    def measured(cls, model: Model, parent_nll: float, measure: Measure, widths: Sequence[int] = WIDTHS) -> Curve:
        """From rounding all linears to nearest at each width; what `measure` keeps is not measured again."""
        return cls([(float(bits), measure(Recipe((rounding(model, bits),))) - parent_nll) for bits in widths])

    @functools.cached_property
    def falling(self) -> list[tuple[float, float]]:
        """The points from many bits to few, flattened so that the loss only grows."""
        found: list[tuple[float, float]] = []
        for bits, loss in sorted(self._usable(), reverse=True):
            found.append((bits, max(loss, found[-1][1] if found else loss)))
        return found

    @property
    def monotone(self) -> bool:
        """Whether fewer bits always lost more, so that nothing had to be flattened."""
        losses = [loss for _, loss in sorted(self._usable(), reverse=True)]
        return all(more < fewer for more, fewer in itertools.pairwise(losses))

    def _usable(self) -> list[tuple[float, float]]:
        return [(bits, max(loss, _LEAST)) for bits, loss in self.points if math.isfinite(loss)]

    def ratio(self, loss: float) -> float:
        """16 / bits at which rounding alone loses `loss`, by linear interpolation in log loss; clamped at the ends."""
        falling = self.falling
        target = math.log(max(loss, _LEAST))
        if target <= math.log(falling[0][1]):
            return FULL_BITS / falling[0][0]
        for (bits_high, low), (bits_low, high) in itertools.pairwise(falling):
            if target <= math.log(high):
                span = math.log(high) - math.log(low)
                share = (target - math.log(low)) / span if span else 0.0
                return FULL_BITS / (bits_high + share * (bits_low - bits_high))
        return FULL_BITS / falling[-1][0]


def rounding(model: Model, bits: int) -> Technique:
    """Rounding of all linears of the blocks to nearest, symmetric, in groups of 64 where those fit every row."""
    names = model.architecture.linears()
    kind = f"int{bits}-g64"
    if not all(get(kind).accepts(model.entries[name].shape) for name in names):
        kind = f"int{bits}-channel"
    return build("rtn", {"format": kind})
