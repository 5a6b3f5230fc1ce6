"""Softmax attention over all positions, or over the past ones, with rotary positions."""

from __future__ import annotations

import torch
from torch import nn

_BASE = 10000.0


class TimeAttention(nn.Module):
    """Multi-head attention.

    Args:
        width: channels.
        inner: width of all heads together; a multiple of twice their number.
        heads: how many.
        causal: whether a position sees itself and the past only.
    """

    def __init__(self, width: int, inner: int, heads: int = 2, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.into = nn.Linear(width, 3 * inner)
        self.back = nn.Linear(inner, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same shape."""
        query, key, value = self.into(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        turned = rotated(query), rotated(key)
        mixed = nn.functional.scaled_dot_product_attention(*turned, value, is_causal=self.causal)
        back: torch.Tensor = self.back(mixed.transpose(1, 2).flatten(2))
        return back


def rotated(states: torch.Tensor) -> torch.Tensor:
    """Pairs of channels turned by an angle that grows with the position (arXiv 2104.09864).

    Args:
        states: [..., length, channels], an even number of channels.
    """
    length, half = states.shape[-2], states.shape[-1] // 2
    speed = _BASE ** (-torch.arange(half, device=states.device) / half)
    angle = torch.arange(length, device=states.device)[:, None] * speed
    first, second = states.chunk(2, -1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)
