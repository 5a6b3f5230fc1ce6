"""A convolution over a few neighbouring positions, through a narrower inner width."""

from __future__ import annotations

import torch
from torch import nn


class TimeConvolution(nn.Module):
    """Every output sees `kernel` positions: itself and those before it, or as many on both sides.

    Args:
        width: channels.
        inner: channels of the convolution's result, which a linear map takes back to `width`.
        kernel: positions seen; odd.
        causal: whether a position sees itself and the past only.
    """

    def __init__(self, width: int, inner: int, kernel: int = 5, causal: bool = True) -> None:
        super().__init__()
        self.padding = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        self.convolution = nn.Conv1d(width, inner, kernel)
        self.back = nn.Linear(inner, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same shape."""
        mixed = self.convolution(nn.functional.pad(hidden.mT, self.padding)).mT
        back: torch.Tensor = self.back(mixed)
        return back
