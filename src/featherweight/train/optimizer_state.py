"""Bytes of an optimizer's state, before it runs (exact, from the shapes) and while it runs (counted).

Embeddings are counted apart. In a small model with many tokens they are what the methods for matrices leave alone:
SmolLM2-135M under Muon keeps 621 MiB, of which 216 are AdamW's moments of one embedding.

Step counters and other numbers of one element are not counted, neither is what an optimizer allocates during a step
(a few copies of its largest tensor). State is in the parameter's own type, as every class of the table keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.lazy import torch
from featherweight.train.optimizers import BASELINE, Optimizer, find_optimizer, role_of

_SMALLEST_QUANTIZED = 4096  # of torchao: smaller tensors keep full moments
_MAPS = {8: 256, 4: 16}  # entries of its table of levels, one float32 table a moment


@dataclass(frozen=True)
class StateBytes:
    """Bytes by what the tensors are."""

    matrices: int = 0
    embeddings: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.matrices + self.embeddings + self.others

    @property
    def floor(self) -> int:
        """What stays however little is kept of a matrix."""
        return self.embeddings + self.others


def state_bytes(
    name: str,
    shapes: Mapping[str, Sequence[int]],
    itemsize: int = 4,
    embeddings: Collection[str] | None = None,
    **options: Any,
) -> StateBytes:
    """Bytes that an optimizer keeps after its first step.

    Args:
        name: one of `optimizers()`.
        shapes: of the trained tensors, by name.
        itemsize: bytes of a parameter: 4 in float32, 2 in bfloat16.
        embeddings: names of embeddings and heads; None = by the usual names.
        options: that differ from the table's, such as rank or block_size.
    """
    facts, baseline = find_optimizer(name), find_optimizer(BASELINE)
    sums = dict.fromkeys(("matrix", "embedding", "vector", "tensor"), 0)
    for tensor, shape in shapes.items():
        role = role_of(tensor, shape, embeddings)
        keeper = baseline if role != "matrix" and (facts.matrices_only or facts.groups) else facts
        sums[role] += _of_tensor(keeper, tuple(shape), itemsize, options)
    return StateBytes(sums["matrix"], sums["embedding"], sums["vector"] + sums["tensor"])


def _of_tensor(facts: Optimizer, shape: tuple[int, ...], itemsize: int, options: Mapping[str, Any]) -> int:
    count = math.prod(shape)
    match facts.state:
        case "none":
            return 0
        case "one moment":
            return count * itemsize
        case "two moments":
            return 2 * count * itemsize
        case "rows and columns":
            if len(shape) < 2:
                return count * itemsize
            return (count // shape[-1] + count // shape[-2]) * itemsize
        case "two 8-bit moments" | "two 4-bit moments":
            bits = 8 if "8" in facts.state else 4
            return 2 * _quantized(count, itemsize, bits, int(options.get("block_size", facts.options["block_size"])))
        case "two moments of a projection":
            rank = min(int(options.get("rank", facts.groups["rank"])), *shape)
            return (2 * max(shape) + min(shape)) * rank * itemsize
    raise AssertionError(facts.state)


def _quantized(count: int, itemsize: int, bits: int, block: int) -> int:
    """One moment: codes, a float32 scale a block, the table of levels."""
    if count < _SMALLEST_QUANTIZED or count % block:
        return count * itemsize
    return count * bits // 8 + count // block * 4 + _MAPS[bits] * 4


def counted_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors that an optimizer holds now, numbers of one element left out."""
    return sum(_held(each) for state in optimizer.state.values() for each in state.values())


def _held(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        inner = getattr(value, "tensor_attrs", None)  # quantised: a wrapper of codes, scales and levels
        if inner:
            return sum(_held(getattr(value, each)) for each in inner)
        return value.numel() * value.element_size() if value.dim() else 0
    return _held(getattr(value, "ortho_matrix", None)) if value is not None else 0
