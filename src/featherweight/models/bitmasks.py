"""Masks with one bit a weight: eight to a byte, the first weight in the lowest bit, rows one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from featherweight.core.lazy import torch


def pack(masks: torch.Tensor) -> torch.Tensor:
    """Bytes, uint8 [masks, ceil(weights / 8)], of masks given as bool [masks, ...]; unused bits are 0."""
    flat = masks.reshape(len(masks), -1)
    padded = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.shape[1] % 8))
    return (padded.reshape(len(masks), -1, 8) << _shifts(masks.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The mask of a weight of this shape, bool, from its bytes, uint8 [ceil(weights / 8)]."""
    bits = (packed[:, None] >> _shifts(packed.device)) & 1
    return bits.reshape(-1)[: math.prod(shape)].reshape(tuple(shape)).bool()


def packed_bytes(shape: Sequence[int]) -> int:
    """Bytes of one mask of a weight of this shape."""
    return -(-math.prod(shape) // 8)


def _shifts(device: torch.device) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
