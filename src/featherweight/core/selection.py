"""Greedy forward selection: adds, one after the other, what raises a score most, for as long as something does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def forward_selection(
    candidates: Sequence[T], score: Callable[[Sequence[T]], float], most: int
) -> list[tuple[T, float]]:
    """What was chosen, in that order, with the score reached each time. Of equally good ones the first is taken.

    Args:
        candidates: what there is to choose from, the cheapest first.
        score: of some of them together; higher is better.
        most: how many are chosen at most; the first is chosen whatever its score.
    """
    chosen: list[tuple[T, float]] = []
    while len(chosen) < min(most, len(candidates)):
        taken = [each for each, _ in chosen]
        scores = [(each, score([*taken, each])) for each in candidates if each not in taken]
        best = max(scores, key=lambda pair: pair[1])
        if chosen and best[1] <= chosen[-1][1]:
            break
        chosen.append(best)
    return chosen
