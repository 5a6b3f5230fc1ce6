"""The Pareto frontier: alternatives that nothing else beats in everything."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float | None, ...]]) -> list[int]:
    """Indices of the points that no other point dominates; every coordinate is a cost, None counts as unknown.

    A point dominates another when it is no worse in every coordinate that both know and better in one.
    """
    return [
        index
        for index, point in enumerate(points)
        if not any(_dominates(other, point) for place, other in enumerate(points) if place != index)
    ]


def _dominates(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return bool(pairs) and all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
