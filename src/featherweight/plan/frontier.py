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


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area between the frontier of some points and a reference that is worse in both costs.

    Args:
        points: pairs of costs; those that are worse than the reference count for nothing.
        reference: the pair of costs up to which is counted.
    """
    area, height = 0.0, reference[1]
    for first, second in sorted(points):
        if first < reference[0] and second < height:
            area += (reference[0] - first) * (height - second)
            height = second
    return area


def _dominates(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return bool(pairs) and all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
