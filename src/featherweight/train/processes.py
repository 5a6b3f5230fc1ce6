"""Several processes that train one adapter together, each with its own copy of the model, by accelerate.

A process works on its share of the rows of every update; gradients are added up before the update, so the result is
that of one process, up to the order of a sum. Started by `accelerate launch`; in a single process nothing happens.
Models that do not fit on one device are not divided: that is FSDP's task.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

from featherweight.core.lazy import torch


class Processes:
    """The processes of this training."""

    @functools.cached_property
    def _state(self) -> Any:
        from accelerate import PartialState

        return PartialState(cpu=not torch.cuda.is_available())

    @property
    def several(self) -> bool:
        """Whether a launcher started more than one."""
        return int(os.environ.get("WORLD_SIZE", "1")) > 1

    @property
    def count(self) -> int:
        return int(self._state.num_processes) if self.several else 1

    @property
    def index(self) -> int:
        """Number of this one."""
        return int(self._state.process_index) if self.several else 0

    def add_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Replaces every gradient by the sum over all processes; what is frozen stays without one."""
        if not self.several:
            return
        from accelerate.utils import reduce

        for each in (each for each in parameters if each.requires_grad):
            each.grad = reduce(torch.zeros_like(each) if each.grad is None else each.grad, reduction="sum")

    def add(self, value: float) -> float:
        """The sum of a number over all processes."""
        if not self.several:
            return value
        from accelerate.utils import reduce

        total = reduce(torch.tensor(value, dtype=torch.float64, device=self._state.device), reduction="sum")
        return float(total)
