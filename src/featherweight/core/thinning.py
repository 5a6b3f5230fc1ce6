"""Deltas with values left out, in place: all but the largest (TIES), or at random (DARE)."""

from __future__ import annotations

import math

from featherweight.core.lazy import np, torch
from featherweight.core.stretches import stretches

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
    sizes = values.abs()
    least = float(np.partition(sizes.numpy(), len(sizes) - count)[len(sizes) - count])
    equal = (sizes == least).nonzero().reshape(-1)
    above = int((sizes > least).sum())
    values[sizes < least] = 0
    values[equal[count - above :]] = 0
    return _rescaled(values, before) if rescale else values


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
