"""Deltas with values left out, in place: all but the largest (TIES), or at random (DARE)."""

from __future__ import annotations

import math

from featherweight.core.lazy import np, torch
from featherweight.core.stretches import stretches

_EVERY, _FEWEST = 61, 4096  # of the sample: no power of two, so that it takes from every column
_NOTHING = 1e-7  # a sum of sizes below which nothing is scaled


def keep_largest(values: torch.Tensor, density: float, rescale: bool = False) -> torch.Tensor:
    """Sets all but the largest values of a flat tensor to zero, in place.

    Of equal sizes those that come first stay, so that exactly int(density * count) are left, and at least one.

    Args:
        values: float32.
        density: share that stays.
        rescale: scale what stays so that the sum of sizes is as before.
    """
    if density >= 1:
        return values
    count = max(1, int(density * len(values))) if density > 0 else 0
    if not count:
        return values.zero_()
    before = _size(values) if rescale else 0.0
    least, above = threshold(values, count)
    left = count - above  # of those that are as large as the least
    below = float(np.nextafter(np.float32(least), np.float32(0)))
    for first, last in stretches(len(values)):
        piece = values[first:last]
        piece.copy_(torch.nn.functional.hardshrink(piece, below))
        equal = np.flatnonzero(np.abs(piece.numpy()) == np.float32(least))
        piece.numpy()[equal[max(left, 0) :]] = 0
        left -= len(equal)
    return _rescaled(values, before) if rescale else values


def threshold(values: torch.Tensor, count: int) -> tuple[float, int]:
    """Size of the `count`-th largest value, and how many are larger.

    A sample says roughly where it lies; only what lies near there is sorted. float32 [values].
    """
    low, high = (np.float32(each) for each in _bracket(values, count))
    near, above = [], 0
    for first, last in stretches(len(values)):
        sizes = np.abs(values[first:last].numpy())
        above += int(np.count_nonzero(sizes > high))
        near.append(sizes[(sizes >= low) & (sizes <= high)])
    found, rank = np.concatenate(near), count - above  # rank among what is near, from the top
    if not 0 < rank <= len(found):
        found, rank, above = np.abs(values.numpy()), count, 0
    found.partition(len(found) - rank)
    least = found[len(found) - rank]
    return float(least), above + int(np.count_nonzero(found[len(found) - rank :] > least))


def _bracket(values: torch.Tensor, count: int) -> tuple[float, float]:
    """Two sizes between which the `count`-th largest lies almost surely; all of them where values are few."""
    sample = values[::_EVERY].abs().numpy()
    if len(sample) < _FEWEST:
        return 0.0, math.inf
    sample.sort()
    middle, margin = len(sample) * (1 - count / len(values)), 6 * math.sqrt(len(sample)) / 2 + 1
    low, high = int(middle - margin), int(middle + margin) + 1
    return (
        float(sample[low]) if low >= 0 else 0.0,
        float(sample[high]) if high < len(sample) else math.inf,
    )


def keep_some(values: torch.Tensor, density: float, generator: torch.Generator, rescale: bool = True) -> torch.Tensor:
    """Sets random values of a flat tensor to zero, in place, each with the probability 1 - density.

    Args:
        values: float32.
        density: probability of staying.
        generator: of the choice.
        rescale: scale what stays so that the sum of sizes is as before.
    """
    if density >= 1:
        return values
    before = _size(values) if rescale else 0.0
    for first, last in stretches(len(values)):
        values[first:last].mul_(torch.rand(last - first, generator=generator) < density)
    return _rescaled(values, before) if rescale else values


def _size(values: torch.Tensor) -> float:
    """Sum of sizes, the same however many threads torch has."""
    pieces = (values[first:last].abs().sum(dtype=torch.float64) for first, last in stretches(len(values)))
    return math.fsum(float(each) for each in pieces)


def _rescaled(values: torch.Tensor, before: float) -> torch.Tensor:
    after = _size(values)
    return values.mul_(before / after) if min(before, after) >= _NOTHING else values
