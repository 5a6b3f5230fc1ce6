"""The stateless partition's map as one compiled kernel each way, where there is a GPU with Triton.

Eager code writes every step of the hash to memory; compiled, groups live in registers and only the result is written.
The transposed map adds with atomics there, so that its last bits depend on their order. Where the compiler is missing
or fails, the eager code takes over, and a warning says so once.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

from featherweight.core.lazy import torch
from featherweight.core.splitmix import mixed, place_of

_WORD = 1 << 64


def gather(scaled: torch.Tensor, base: torch.Tensor, count: int, groups: int, wrap: int) -> torch.Tensor:
    """The entry of its group for each of `count` places; `base` is the first place's number before it is mixed."""
    return scaled[_groups(base, count, groups, wrap)]


def scatter(values: torch.Tensor, base: torch.Tensor, groups: int, wrap: int) -> torch.Tensor:
    """The sum of the values [n] of each group, [groups]."""
    return values.new_zeros(groups).index_add(0, _groups(base, len(values), groups, wrap), values)


def _groups(base: torch.Tensor, count: int, groups: int, wrap: int) -> torch.Tensor:
    bits = mixed(torch.arange(count, dtype=torch.int64, device=base.device) + base)
    remainder = bits % groups + (bits < 0) * wrap
    return torch.where(remainder >= groups, remainder - groups, remainder)


def usable(device: torch.device) -> bool:
    """Whether a kernel can be made for this device."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None and not _failed


_failed: list[str] = []


@functools.cache
def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """One of the two functions above, compiled for every size."""
    found: Callable[..., torch.Tensor] = torch.compile(function, dynamic=True)
    return found


def fused_expand(scaled: torch.Tensor, seed: int, start: int, count: int) -> torch.Tensor | None:
    """Places `start` and following of the map's result; None where no kernel can be had."""
    return _attempt(gather, scaled, _base(seed, start, scaled.device), count, len(scaled), _WORD % len(scaled))


def fused_reduce(values: torch.Tensor, seed: int, start: int, groups: int) -> torch.Tensor | None:
    """Sums by group of values [n] for the places from `start` on; None where no kernel can be had."""
    return _attempt(scatter, values, _base(seed, start, values.device), groups, _WORD % groups)


def _base(seed: int, start: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(place_of(seed, start), dtype=torch.int64, device=device)


def _attempt(function: Callable[..., torch.Tensor], first: torch.Tensor, *rest: Any) -> torch.Tensor | None:
    try:
        return compiled(function)(first, *rest)
    except Exception as error:  # whatever the compiler raises: the eager code computes the same
        _failed.append(str(error))
        warnings.warn(f"the partition is computed without a kernel of its own: {error}", stacklevel=2)
        return None
