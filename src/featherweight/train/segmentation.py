"""Trains part of a segmenter on scenes: heads always, and whatever was inserted.

The loss is the model's own (Hungarian matching inside). Mask2Former's draws the points at which it compares masks from
torch's global generator, which is set for each step and put back. Running means of batch norms that are frozen stay as
they are: they are no parameters, and would otherwise move with every batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.attach import seeded
from featherweight.core.errors import MissingExtra, TrainingError
from featherweight.core.lazy import torch
from featherweight.core.progress import Progress
from featherweight.core.scenes import Scenes, boxes
from featherweight.train.loop import Schedule, minimise, shuffled


@dataclass(frozen=True)
class Tuned:
    """How much of a model is trained.

    Attributes:
        heads: parameters of the heads.
        inserted: parameters that the base does not have.
        base: parameters of the base, heads included.
        whole: whether all of the base is trained.
    """

    heads: int
    inserted: int
    base: int
    whole: bool = False

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return (self.base if self.whole else self.heads) + self.inserted

    @property
    def share(self) -> float:
        """Trained parameters by those of the base."""
        return self.trained / self.base

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.base:,} parameters are tuned ({self.share:.2%})"


def scene_inputs(model: Any, scenes: Scenes) -> dict[str, Any]:
    """Keyword arguments with which a transformers model computes its own loss: masks, or boxes for a detector.

    Raises:
        MissingExtra: the loss of a detector needs Pillow, of all things.
    """
    device = model.device
    inputs: dict[str, Any] = {"pixel_values": scenes.images.to(device)}
    if str(model.config.model_type) == "mask2former":
        inputs["mask_labels"] = [each.float().to(device) for each in scenes.masks]
        inputs["class_labels"] = [each.to(device) for each in scenes.classes]
        return inputs
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtra(f"the loss of {model.config.model_type}, which transformers computes", "pillow")
    labels = zip(scenes.classes, scenes.masks, strict=True)
    inputs["labels"] = [
        {"class_labels": classes.to(device), "boxes": boxes(masks).to(device)} for classes, masks in labels
    ]
    return inputs


def train_on_scenes(
    model: Any,
    scenes: Scenes,
    schedule: Schedule,
    batch: int,
    generator: torch.Generator,
    weight_decay: float = 0.01,
    label: str = "training",
    progress: Progress | None = None,
) -> list[float]:
    """Trains the parameters that require a gradient, in place; returns the loss of every step.

    Args:
        model: Mask2Former or Deformable DETR, possibly with PEFT's wrapper or serial adapters.
        scenes: to train on.
        schedule: updates and their rates.
        batch: scenes an update.
        generator: draws the order of the scenes and what the loss samples.
        weight_decay: of AdamW.
        label: what progress shows.
        progress: what is told of every step.

    Raises:
        TrainingError: nothing requires a gradient, or a loss is not a number.
    """
    trained = [each for each in model.parameters() if each.requires_grad]
    if not trained:
        raise TrainingError(label, "has nothing to train", "name heads, or insert something")
    rows = shuffled(len(scenes), batch, generator)

    def loss(step: int) -> torch.Tensor:
        with seeded(generator):
            value: torch.Tensor = model(**scene_inputs(model, scenes.take(rows(step)))).loss
        return value.squeeze()

    training_mode(model)
    try:
        return minimise(trained, loss, schedule, label, progress, weight_decay=weight_decay)
    finally:
        model.eval()


def training_mode(model: torch.nn.Module) -> None:
    """Training mode, but for batch norms of which nothing is trained: their running means stay."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not _trained(module):
            module.eval()


def _trained(module: torch.nn.Module) -> bool:
    return any(each.requires_grad for each in module.parameters(recurse=False))


def train_only(model: Any, heads: Sequence[str], others: Sequence[torch.nn.Parameter] = ()) -> None:
    """Freezes everything but some modules and parameters, in place."""
    model.requires_grad_(False)
    for name in heads:
        model.get_submodule(name).requires_grad_(True)
    for each in others:
        each.requires_grad_(True)
