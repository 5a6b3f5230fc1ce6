"""Training shared weights under several masks, one mask an update: what a mask drops is neither read nor moved.

The forward pass sees `mask * weight`, so the gradient outside the mask is exactly zero. That is not enough: Adam moves
a weight by what it remembers of earlier gradients, which came from other masks, and weight decay moves every weight.
So everything outside the mask is put back after the update, the weights and the optimizer's memory of them. A weight's
moments then know only the updates in which it took part (the correction of their start counts all updates). Costs a
copy of the masked weights and their moments an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from featherweight.core.errors import TrainingError
from featherweight.core.lazy import torch
from featherweight.core.progress import Progress
from featherweight.train.loop import Schedule, minimise

Weights = Mapping[str, "torch.Tensor"]
"""Parameters by name."""

Masks = Mapping[str, "torch.Tensor"]
"""bool on the CPU, by parameter name; a parameter without a mask is dense."""

Loss = Callable[[Weights, int], "torch.Tensor"]
"""The loss of a module that has these parameters, on its batch of this number (0, 1, 2, …)."""

OptimizerOf = Callable[[list["torch.Tensor"]], "torch.optim.Optimizer"]


def adam(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Adam without weight decay; the schedule sets its rate."""
    return torch.optim.Adam(parameters)


def masked(weights: Weights, masks: Masks) -> dict[str, torch.Tensor]:
    """`mask * weight`; dense parameters as they are."""
    return {name: weight * masks[name] if name in masks else weight for name, weight in weights.items()}


def train_masked(
    start: Weights,
    masks: Sequence[Masks],
    losses: Sequence[Loss],
    schedule: Schedule,
    optimizer: OptimizerOf = adam,
    label: str = "training",
    progress: Progress | None = None,
    clip: float | None = None,
) -> dict[str, torch.Tensor]:
    """Weights after `schedule.steps` updates, the first under the first mask, the second under the second, and so on.

    Subsets take turns, one batch each, as if the shorter ones were repeated to the length of the longest. With one mask
    this is the training of one sparse network; with equal masks, the joint training of one on all subsets.

    Args:
        start: the weights to start from; they are not changed.
        masks: one for each subset.
        losses: one for each subset; called with `mask * weight` and the number of the subset's batch.
        schedule: number of updates of all subsets together, and learning rates.
        optimizer: makes the optimizer of a list of parameters.
        label: what progress shows.
        progress: what is told of every update.
        clip: greatest norm of a gradient; None = any.

    Raises:
        TrainingError: a mask does not fit its weights, or a loss is not a number.
    """
    check_fit(start, masks)
    masks = [{name: kept.to(start[name].device) for name, kept in mask.items()} for mask in masks]
    weights = {name: value.detach().clone().requires_grad_(True) for name, value in start.items()}
    chosen = optimizer(list(weights.values()))
    subsets = len(masks)
    updates = _Updates(chosen, weights, masks)

    def loss(step: int) -> torch.Tensor:
        return losses[step % subsets](masked(weights, masks[step % subsets]), step // subsets)

    minimise(
        weights.values(), loss, schedule, label, progress, chosen, clip=clip,
        before_update=updates.remember, after_update=updates.put_back,
    )  # fmt: skip
    return {name: weight.detach() for name, weight in weights.items()}


def check_fit(weights: Weights, masks: Sequence[Masks]) -> None:
    """Refuses masks of weights that are not there, or that have another shape.

    Raises:
        TrainingError: with the name of the first such weight.
    """
    for mask in masks:
        for name, kept in mask.items():
            shape = list(weights[name].shape) if name in weights else None
            if shape != list(kept.shape):
                found = "no such weight is there" if shape is None else f"the weight has the shape {shape}"
                raise TrainingError(
                    f"the mask of {name} {list(kept.shape)}", found, "make the masks anew for these weights"
                )


class _Updates:
    """Keeps what the mask of an update drops as it was before the update."""

    def __init__(self, optimizer: torch.optim.Optimizer, weights: Weights, masks: Sequence[Masks]) -> None:
        self.optimizer, self.weights, self.masks = optimizer, weights, masks
        self._before: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def remember(self, step: int) -> None:
        mask = self.masks[step % len(self.masks)]
        self._before = [(each, each.detach().clone(), mask[name]) for name in mask for each in self._parts(name)]

    def put_back(self, step: int) -> None:
        for now, before, mask in self._before:
            now.copy_(torch.where(mask, now, before))
        self._before = []

    def _parts(self, name: str) -> Iterator[torch.Tensor]:
        """A weight, and what the optimizer holds for each of its elements; before the first update that is nothing.

        Nothing is also what the first update leaves there: the gradient outside the mask is zero.
        """
        weight = self.weights[name]
        yield weight
        for kept in self.optimizer.state.get(weight, {}).values():
            if isinstance(kept, torch.Tensor) and kept.shape == weight.shape:
                yield kept
