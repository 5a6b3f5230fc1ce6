"""A small classifier on features that are there already: dense layers with ReLU between them.

Features are standardised while it is trained; afterwards mean and scale are folded into the first layer, so the result
takes the features as they come and holds no parameter more than its dense layers. It may go on to train the body that
makes the features, with the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from featherweight.core.lazy import torch
from featherweight.core.numerics import mean_and_scale
from featherweight.core.progress import Progress
from featherweight.train.loop import Schedule, minimise, shuffled


@dataclass(frozen=True)
class Fitting:
    """How a head is trained.

    Attributes:
        steps: updates.
        learning_rate: the highest one.
        weight_decay: of AdamW.
        batch: rows an update.
    """

    steps: int = 300
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch: int = 64


def train_head(
    head: torch.nn.Sequential,
    features: torch.Tensor,
    targets: torch.Tensor,
    fitting: Fitting,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Trains a classifier on features, in place.

    Args:
        head: its first layer is linear.
        features: float32 [rows, width].
        targets: classes, int64 [rows].
        fitting: steps and rates.
        generator: draws the order of the rows.
        progress: what is told of every step.
    """
    mean, scale = mean_and_scale(features)
    inputs = (features - mean) / scale

    def loss(rows: Sequence[int]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(head(inputs[list(rows)]), targets[list(rows)])

    train_rows(head.parameters(), loss, len(features), fitting, generator, "training the head", progress)
    _fold(head[0], mean, scale)


def train_rows(
    parameters: Iterable[torch.Tensor],
    loss: Callable[[Sequence[int]], torch.Tensor],
    rows: int,
    fitting: Fitting,
    generator: torch.Generator,
    label: str,
    progress: Progress | None = None,
) -> list[float]:
    """Minimises the loss of shuffled batches of rows; returns the loss of every step."""
    batch_of = shuffled(rows, fitting.batch, generator)
    trained = list(parameters)
    losses = minimise(
        trained, lambda step: loss(batch_of(step)), Schedule(fitting.steps, fitting.learning_rate), label, progress,
        weight_decay=fitting.weight_decay,
    )  # fmt: skip
    for parameter in trained:
        parameter.requires_grad_(False)
    return losses


def _fold(first: torch.nn.Module, mean: torch.Tensor, scale: torch.Tensor) -> None:
    """Makes a linear layer compute from features what it computed from standardised features."""
    weight, bias = first.get_parameter("weight"), first.get_parameter("bias")
    with torch.no_grad():
        scaled = weight.double() / scale.double()
        bias.copy_(bias.double() - scaled @ mean.double())
        weight.copy_(scaled)
