"""Matches the members of a shorter sequence with those of a longer one, in order: child blocks with parent blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence


def aligned(costs: Sequence[Sequence[float]]) -> list[int]:
    """A column for each row, ascending without repeats, of least total cost; of equal ones the first.

    Args:
        costs: no more rows than columns.
    """
    rows, columns = len(costs), len(costs[0])
    best = [[math.inf] * (columns + 1) for _ in range(rows)] + [[0.0] * (columns + 1)]
    for row in reversed(range(rows)):
        for column in reversed(range(columns)):
            best[row][column] = min(costs[row][column] + best[row + 1][column + 1], best[row][column + 1])
    chosen, column = [], 0
    for row in range(rows):
        while costs[row][column] + best[row + 1][column + 1] > best[row][column]:
            column += 1
        chosen.append(column)
        column += 1
    return chosen
