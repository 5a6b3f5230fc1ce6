"""Values of a stored matrix, quickly: for weights that are read back many times a step.

The same values as `Packed.dequantize`, bit for bit, for the plain 4- and 8-bit formats; others are read back as always.
"""

from __future__ import annotations

from typing import Any

from featherweight.core.formats import get
from featherweight.core.formats.base import Packed
from featherweight.core.lazy import torch

_BLOCK = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}
_NIBBLES = 32  # weights a block of these GGUF types


def expand(stored: Any, room: torch.Tensor | None = None) -> torch.Tensor:
    """The values, float32 [rows, columns], of a tensor or a `Packed`.

    Args:
        stored: [rows, columns].
        room: float32 memory of at least as many numbers where the values may be put; None = new memory.
    """
    if not isinstance(stored, Packed):
        return stored.float()
    if stored.format in _BLOCK:
        count = stored.shape[0] * stored.shape[1]
        values = torch.empty(count) if room is None or len(room) < count else room[:count]
        return _blocks(stored, values.view(-1, _NIBBLES)).view(stored.shape)
    return stored.dequantize()


def expand_rows(stored: Any, rows: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
    """The values of some rows, int64 [kept]; of the plain block formats nothing else is read.

    Args:
        stored: [rows, columns].
        rows: by index.
        room: as of `expand`, where all values are needed first.
    """
    if not isinstance(stored, Packed):
        return stored[rows].float()
    if stored.format in _BLOCK:
        return expand(get(stored.format).take_rows(stored, rows))
    return expand(stored, room)[rows]


def row_slice(stored: Any, first: int, last: int) -> Any:
    """Rows `first` to `last` of a tensor or a `Packed`, in the same format."""
    if not isinstance(stored, Packed):
        return stored[first:last]
    if (first, last) == (0, stored.shape[0]):
        return stored
    return get(stored.format).take_rows(stored, torch.arange(first, last))


def _blocks(packed: Packed, values: torch.Tensor) -> torch.Tensor:
    blocks = packed.parts["blocks"].reshape(-1, _BLOCK[packed.format])
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    if packed.format == "Q8_0":
        return values.copy_(blocks[:, 2:].view(torch.int8)).mul_(scale)
    start = 4 if packed.format == "Q4_1" else 2
    codes = blocks[:, start:]
    values[:, :16] = codes & 15
    values[:, 16:] = codes >> 4
    if packed.format == "Q4_0":
        return values.sub_(8).mul_(scale)
    minimum = blocks[:, 2:4].contiguous().view(torch.float16).float()
    return values.mul_(scale).add_(minimum)
