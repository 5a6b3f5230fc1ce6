"""A parent with noise of the size of bf16's rounding on its weights: how far apart two models are that are as good.

Each weight is multiplied by 1 + u / 256 / 2 with u uniform between -1 and 1: the largest error of rounding to bf16.
Tensors are shaken when they are read, so nothing is copied; which draw it is, the seed says.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from featherweight.core.checkpoint import Entry
from featherweight.core.in_file import dtype_name
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run

HALF_UNIT = 2.0**-9
"""Of bf16, relative: half the distance between 1 and the next number."""


def shaken(model: Model, seed: int) -> Model:
    """The model with noise on every matrix."""
    entries = {
        name: Entry(
            dtype_name(torch.float32), entry.shape, 4 * torch.Size(entry.shape).numel(),
            functools.partial(_shaken_tensor, model, name, seed),
        )
        for name, entry in model.entries.items() if len(entry.shape) == 2
    }  # fmt: skip
    return model.with_changes(entries)


def _shaken_tensor(model: Model, name: str, seed: int) -> torch.Tensor:
    return _noisy(model.tensor(name), Run(seed=seed).generator(f"noise of {name}"))


def shaken_module(module: Any, seed: int) -> Any:
    """A copy of a `torch.nn` module with noise on every matrix and kernel."""
    found = copy.deepcopy(module)
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if weight.dim() > 1:
                weight.copy_(_noisy(weight.cpu(), Run(seed=seed).generator(f"noise of {name}")))
    return found


def _noisy(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return weight * (1 + HALF_UNIT * (2 * torch.rand(weight.shape, generator=generator) - 1))
