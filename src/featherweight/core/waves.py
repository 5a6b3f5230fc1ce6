"""Noisy waves of six frequencies: the world in which backbones are compared when nobody gives data.

    x_t = sin(phase_t) + drift (t / L - 1/2) + noise,   phase_t = phase_(t-1) + 2 pi f / L + wobble

A row's class is its frequency f (6 of them, in cycles a window). Phase, drift and noise are its own, so neither a
single sample nor the mean tells the class: only how samples follow each other does. With `Signals.shuffled` that is
gone, and any difference between backbones is chance: the control.
"""

from __future__ import annotations

import math

from featherweight.core.lazy import torch
from featherweight.core.signals import Signals

CLASSES, LENGTH = 6, 64
_SLOWEST, _APART = 3.0, 1.0  # cycles a window
_NOISE, _DRIFT, _WOBBLE = 0.5, 1.0, 0.05


def waves(rows: int, seed: int, length: int = LENGTH) -> Signals:
    """Rows of waves with their classes, task "frequency".

    Args:
        rows: how many.
        seed: decides everything.
        length: samples of a row.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (rows,), generator=generator)
    cycles = _SLOWEST + _APART * classes
    turns = 2 * math.pi * cycles[:, None] / length + _WOBBLE * torch.randn(rows, length, generator=generator)
    phases = 2 * math.pi * torch.rand(rows, 1, generator=generator) + turns.cumsum(1)
    drift = 2 * _DRIFT * (2 * torch.rand(rows, 1, generator=generator) - 1) * (torch.arange(length) / length - 0.5)
    values = torch.sin(phases) + drift + _NOISE * torch.randn(rows, length, generator=generator)
    return Signals(values[..., None], {"frequency": [str(each) for each in classes.tolist()]}, "the waves")
