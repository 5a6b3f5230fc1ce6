"""Pooling: one vector an input from what a layer computed.

Positions that an attention mask leaves out count for nothing. Feature maps [rows, channels, height, width] are always
averaged over their positions: where a feature lies is lost.
"""

from __future__ import annotations

from typing import Literal

from featherweight.core.lazy import torch

Pool = Literal["mean", "last", "first"]


def pooled(states: torch.Tensor, pool: Pool = "mean", mask: torch.Tensor | None = None) -> torch.Tensor:
    """Features of each row, [rows, width].

    Args:
        states: [rows, positions, width], [rows, channels, height, width] or [rows, width].
        pool: the mean over positions, the last or the first one that counts.
        mask: [rows, positions], nonzero where a position counts; None = all count.
    """
    if states.dim() == 4:
        return states.mean((2, 3))
    if states.dim() == 2:
        return states
    counts = torch.ones(states.shape[:2], device=states.device) if mask is None else (mask != 0).to(states.dtype)
    if pool == "mean":
        # A product would turn what padding computed, should it be infinite, into NaN.
        kept = states.masked_fill(counts[..., None] == 0, 0.0)
        return kept.sum(1) / counts.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(1, states.shape[1] + 1, device=states.device) * (counts != 0)
    if pool == "last":
        return states[torch.arange(len(states), device=states.device), places.argmax(1)]
    first = torch.where(places > 0, places, states.shape[1] + 1).argmin(1)
    return states[torch.arange(len(states), device=states.device), first]
