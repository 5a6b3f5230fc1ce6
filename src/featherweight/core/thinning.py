"""Deltas with values left out, in place: all but the largest (TIES), or at random (DARE)."""

from __future__ import annotations

import math

from featherweight.core.lazy import np, torch
from featherweight.core.stretches import stretches

_NOTHING = 1e-7  # a sum of sizes below which nothing is scaled


def keep_largest(values: torch.Tensor, density: float) -> torch.Tensor:
    """Sets all but the largest values of a flat tensor to zero, in place.

    Of equal sizes those that come first stay, so that exactly int(density * count) are left, and at least one.
    """
    if density >= 1:
        return values
    count = max(1, int(density * len(values))) if density > 0 else 0
    if not count:
        return values.zero_()
    sizes = values.abs()
    least = _kth_largest(sizes, count)
    equal = (sizes == least).nonzero().reshape(-1)
    above = int((sizes > least).sum())
    values[sizes < least] = 0
    values[equal[count - above :]] = 0
    return values


def _kth_largest(sizes: torch.Tensor, count: int) -> float:
    return float(np.partition(sizes.numpy(), len(sizes) - count)[len(sizes) - count])


def keep_some(values: torch.Tensor, density: float, generator: torch.Generator, rescale: bool) -> torch.Tensor:
    """Sets random values of a flat tensor to zero, in place, each with the probability 1 - density.

    Args:
        values: float32.
        density: probability of staying.
        generator: of the choice.
        rescale: scale what stays so that the sum of sizes is as before.
    """
    if density >= 1:
        return values
    before, after = [], []
    for first, last in stretches(len(values)):
        piece = values[first:last]
        before.append(float(piece.abs().sum(dtype=torch.float64)))
        piece.mul_(torch.rand(last - first, generator=generator) < density)
        after.append(float(piece.abs().sum(dtype=torch.float64)))
    sizes = math.fsum(before), math.fsum(after)
    if rescale and min(sizes) >= _NOTHING:
        values.mul_(sizes[0] / sizes[1])
    return values
