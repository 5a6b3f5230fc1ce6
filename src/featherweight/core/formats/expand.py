"""Values of a stored matrix, quickly: for weights that are read back many times a step.

The same values as `Packed.dequantize`, bit for bit; those of GGUF block types are put where the caller wants them, and
on a GPU the plain ones are read back there.
"""

from __future__ import annotations

from typing import Any

from featherweight.core.formats import get
from featherweight.core.formats.base import Packed
from featherweight.core.formats.ggml_kernels import dequantize_into
from featherweight.core.lazy import torch

BLOCKS = "blocks"  # the one part of a matrix in a GGUF block type
_PLAIN = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}  # bytes of a block of 32 weights


def expand(stored: Any, room: torch.Tensor | None = None) -> torch.Tensor:
    """The values, float32 [rows, columns], of a tensor or a `Packed`.

    Args:
        stored: [rows, columns].
        room: float32 memory of at least as many numbers where the values may be put; None = new memory.
    """
    if not isinstance(stored, Packed):
        return stored.float()
    if BLOCKS in stored.parts and stored.parts[BLOCKS].device.type != "cpu":
        return _on_device(stored)
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


def moved(stored: Any, device: torch.device | str) -> Any:
    """A tensor or a `Packed` on a device."""
    if not isinstance(stored, Packed):
        return stored.to(device)
    return Packed(stored.format, stored.shape, {name: part.to(device) for name, part in stored.parts.items()})


def _on_device(packed: Packed) -> torch.Tensor:
    """Values of blocks that lie on another device than the processor, there."""
    blocks = packed.parts[BLOCKS]
    if packed.format not in _PLAIN:
        return moved(packed, "cpu").dequantize().to(blocks.device)
    blocks = blocks.reshape(-1, _PLAIN[packed.format])
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    if packed.format == "Q8_0":
        return (blocks[:, 2:].view(torch.int8) * scale).view(packed.shape)
    codes = blocks[:, 4 if packed.format == "Q4_1" else 2 :]
    values = torch.cat([codes & 15, codes >> 4], 1).float()
    if packed.format == "Q4_0":
        return values.sub_(8).mul_(scale).view(packed.shape)
    minimum = blocks[:, 2:4].contiguous().view(torch.float16).float()
    return values.mul_(scale).add_(minimum).view(packed.shape)
