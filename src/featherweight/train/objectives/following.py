"""A teacher that follows its student: an exponential moving average of its weights, which learns nothing by itself."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Following(nn.Module):
    """A copy of a module whose weights move towards it: w' <- m w' + (1 - m) w.

    Args:
        module: what it follows.
        momentum: m at the start, and at the end of the training; linear in between.
    """

    def __init__(self, module: nn.Module, momentum: tuple[float, float]) -> None:
        super().__init__()
        self.copy = copy.deepcopy(module).requires_grad_(False).eval()
        self.momentum = momentum

    def train(self, mode: bool = True) -> Following:
        """Stays as it is: a teacher drops nothing out."""
        return self

    @torch.no_grad()
    def follow(self, module: nn.Module, share: float) -> None:
        """One step, at a share of the training in [0, 1]."""
        first, last = self.momentum
        now = first + (last - first) * share
        torch._foreach_lerp_(list(self.copy.parameters()), list(module.parameters()), 1 - now)
