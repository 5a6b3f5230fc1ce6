"""The one optimisation loop: a loss of a step is minimised over some tensors, with warm-up, clipping and a stop at NaN.

It knows no model and no data: whoever calls it gives a function from the step's number to a loss. Randomness is the
caller's too, so the same generators give the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from featherweight.core.errors import TrainingError
from featherweight.core.lazy import torch
from featherweight.core.progress import Progress


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast at each step.

    Attributes:
        steps: number of updates.
        learning_rate: the highest one, reached after `warmup` steps.
        warmup: steps of linear increase.
        decay: how the rate falls to zero afterwards.
    """

    steps: int
    learning_rate: float
    warmup: int = 0
    decay: Literal["cosine", "linear", "none"] = "cosine"

    def at(self, step: int) -> float:
        """The learning rate of a step, the first being 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        factors = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "none": 1.0}
        return self.learning_rate * factors[self.decay]


def minimise(
    parameters: Iterable[torch.Tensor],
    loss: Callable[[int], torch.Tensor],
    schedule: Schedule,
    label: str = "training",
    progress: Progress | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    accumulate: int = 1,
    average: bool = True,
    start: int = 0,
    gathered: Callable[[int], None] | None = None,
    before_update: Callable[[int], None] | None = None,
    after_update: Callable[[int], None] | None = None,
    stop: Callable[[int, float], bool] | None = None,
) -> list[float]:
    """Updates `parameters` in place; returns the loss of every step.

    Args:
        parameters: leaf tensors; those that do not require a gradient yet will.
        loss: called `accumulate` times a step, with 0, 1, 2, … overall; a scalar.
        schedule: number of steps and learning rates.
        label: what progress shows.
        progress: what is told of every step.
        optimizer: over `parameters`; None = AdamW. Its learning rate is set by the schedule, times a group's "factor"
            where it has one.
        weight_decay: of AdamW.
        clip: greatest norm of the gradient over all parameters; None = any.
        accumulate: losses whose mean makes one update.
        average: whether it is their mean; otherwise their sum.
        start: the first step, where those before it were done earlier.
        gathered: called when the gradients are there, before they are clipped, to add those of other processes.
        before_update: called when the gradients are there and clipped, to mask them.
        after_update: called when the parameters have moved, to put them back where they must be.
        stop: called with the step and its loss; True ends the training.

    Raises:
        TrainingError: a loss or a gradient is not a number; the parameters are those of the last good step.
    """
    trained = [each.requires_grad_(True) for each in parameters]
    chosen = optimizer or torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=weight_decay)
    losses: list[float] = []
    with (progress or Progress()).track(label, schedule.steps - start) as advance, torch.enable_grad():
        for step in range(start, schedule.steps):
            for group in chosen.param_groups:
                group["lr"] = schedule.at(step) * group.get("factor", 1.0)
            losses.append(_gradients(chosen, loss, step, accumulate, average, label))
            if gathered:
                gathered(step)
            _clip(trained, clip, step, label)
            if before_update:
                before_update(step)
            chosen.step()
            if after_update:
                with torch.no_grad():
                    after_update(step)
            advance()
            if stop and stop(step, losses[-1]):
                break
    chosen.zero_grad(set_to_none=True)
    return losses


def _gradients(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], torch.Tensor],
    step: int,
    accumulate: int,
    average: bool,
    label: str,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for index in range(step * accumulate, (step + 1) * accumulate):
        value = loss(index)
        value = value / accumulate if average else value
        if not bool(torch.isfinite(value)):
            raise TrainingError(
                f"{label}, step {step}", f"the loss is {value.item()}",
                "lower the learning rate, or look at that step's data",
            )  # fmt: skip
        value.backward()
        total += float(value.detach())
    return total


def _clip(trained: Sequence[torch.Tensor], clip: float | None, step: int, label: str) -> None:
    """Bounds the norm of the gradient, and refuses one that would make every parameter NaN."""
    gradients = [each.grad for each in trained if each.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not bool(torch.isfinite(norm)):
        raise TrainingError(
            f"{label}, step {step}", f"the gradient's norm is {norm.item()}",
            "lower the learning rate, or look at that step's data",
        )  # fmt: skip
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(trained, clip, norm)


def shuffled(rows: int, batch: int, generator: torch.Generator) -> Callable[[int], Sequence[int]]:
    """Rows of every step: each epoch is a new permutation, no row comes twice before all came once.

    Args:
        rows: how many there are.
        batch: rows a step; at most `rows` are given.
        generator: decides the order.
    """
    batch = min(batch, rows)
    orders: list[list[int]] = []

    def batch_of(step: int) -> Sequence[int]:
        a_epoch = rows // batch
        while len(orders) <= step // a_epoch:
            orders.append(torch.randperm(rows, generator=generator).tolist())
        first = step % a_epoch * batch
        return orders[step // a_epoch][first : first + batch]

    return batch_of
