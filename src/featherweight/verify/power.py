"""How many cases it takes: a set too small to show a loss cannot certify that there is none.

A loss shows when at least five refusals change one way; a set is large enough for a margin when a loss of that margin
would show with a chance of 90 %, and never below 200 cases.
"""

from __future__ import annotations

import functools

from featherweight.core.lazy import scipy

SHOWS = 5  # changes one way
CHANCE = 0.9
FEWEST = 200
_TABLE = ((0.05, 100), (0.05, 200), (0.02, 200), (0.02, 400), (0.01, 400), (0.01, 800))


def chance_to_show(count: int, rate: float) -> float:
    """Chance that a loss of this rate changes at least five of so many cases."""
    return float(scipy.special.bdtrc(SHOWS - 1, count, rate)) if count >= SHOWS else 0.0


@functools.cache
def cases_needed(margin: float) -> int:
    """The smallest set that can certify a loss below the margin."""
    low, high = 0, FEWEST
    while chance_to_show(high, margin) < CHANCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance_to_show(middle, margin) >= CHANCE else (middle, high)
    return max(high, FEWEST)


def power_table() -> list[dict[str, float]]:
    """Chances of showing losses of 5, 2 and 1 points, for people."""
    return [{"loss": rate, "count": count, "chance": chance_to_show(count, rate)} for rate, count in _TABLE]


def power_statement(count: int, margin: float) -> str:
    """What so many cases can tell, in one sentence."""
    needed = cases_needed(margin)
    chance = f"{count} cases show a loss of {margin:.1%} with a chance of {chance_to_show(count, margin):.0%}"
    return f"{chance}; {needed} are needed" if count < needed else chance
