"""Values of a stored matrix, quickly: for weights that are read back many times a step.

The same values as `Packed.dequantize`, bit for bit; those of GGUF block types are put where the caller wants them.
"""

from __future__ import annotations

from typing import Any

from featherweight.core.formats import get
from featherweight.core.formats.base import Packed
from featherweight.core.formats.ggml_kernels import dequantize_into
from featherweight.core.lazy import torch

BLOCKS = "blocks"  # the one part of a matrix in a GGUF block type


def expand(stored: Any, room: torch.Tensor | None = None) -> torch.Tensor:
    """The values, float32 [rows, columns], of a tensor or a `Packed`.

    Args:
        stored: [rows, columns].
        room: float32 memory of at least as many numbers where the values may be put; None = new memory.
    """
    if not isinstance(stored, Packed):
        return stored.float()
    if BLOCKS in stored.parts and room is not None and len(room) >= stored.shape[0] * stored.shape[1]:
        values = room[: stored.shape[0] * stored.shape[1]].view(stored.shape)
        if dequantize_into(stored.parts[BLOCKS], stored.format, values):
            return values
    return stored.dequantize()


def expand_rows(stored: Any, rows: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
    """The values of some rows, int64 [kept]; of block formats nothing else is read.

    Args:
        stored: [rows, columns].
        rows: by index.
        room: as of `expand`, where all values are needed first.
    """
    if not isinstance(stored, Packed):
        return stored[rows].float()
    if BLOCKS in stored.parts:
        return expand(get(stored.format).take_rows(stored, rows))
    return expand(stored, room)[rows]


def row_slice(stored: Any, first: int, last: int) -> Any:
    """Rows `first` to `last` of a tensor or a `Packed`, in the same format."""
    if not isinstance(stored, Packed):
        return stored[first:last]
    if (first, last) == (0, stored.shape[0]):
        return stored
    return get(stored.format).take_rows(stored, torch.arange(first, last))
