"""Floating-point operations of a piece of work.

Those of matrix products, convolutions, attention and Fourier transforms, two for a multiplication and an addition, as
PyTorch's own counter has it, which knows neither Fourier transforms nor attention on a processor: a real transform of N
values counts 5/2 N log2 N, attention is counted as its two products.
Element-wise work is not counted. The count depends on shapes alone, so it is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from featherweight.core.lazy import torch


def flops_of(work: Callable[[], object]) -> int:
    """Operations of `work`, backward passes in it included."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    custom: dict[Any, Any] = {aten._fft_r2c: _transform, aten._fft_c2r: _transform, aten._fft_c2c: _complex_transform}
    with FlopCounterMode(display=False, custom_mapping=custom) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return int(counter.get_total_flops())


def _transform(given: Any, dimensions: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    """A transform whose input or output is real."""
    shape: tuple[int, ...] = max(tuple(given), tuple(out_shape), key=math.prod)
    length = math.prod(shape[each] for each in dimensions)
    return round(2.5 * math.prod(shape) * math.log2(max(length, 2)))


def _complex_transform(given: Any, dimensions: Any, *rest: Any, **_: Any) -> int:
    return 2 * _transform(given, dimensions, out_shape=given)
