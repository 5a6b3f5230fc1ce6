"""Objectives that predict a teacher's states where the student sees a mask; the backbone sees both directions.

The student's encoded positions are replaced by one learnt vector where they are hidden. The teacher is a moving average
of the student and sees everything. The loss is smooth-L1 with beta = 1 against the teacher's states, each layer
normalised over its channels without weights.

- "jepa": several target blocks, the rest of a context block is seen; a predictor of one bidirectional state-space block
  stands behind the student, whatever the backbone is; targets are the teacher's last layer; mean over hidden positions
  and channels.
- "data2vec": random spans; no predictor; targets are the mean of the teacher's last layers; summed over channels,
  divided by the root of their number, mean over hidden positions. With one layer and block masks it is "jepa" without a
  predictor, times that root.

arXiv 2605.12241 (its code) for both, after arXiv 2301.08243 and 2202.03555. It does not tell the teacher's momentum:
ours rises from 0.99 to 1, because trainings here are short. Its 64 positions kept at least, of 300, are a share here.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from featherweight.models.backbone import Backbone
from featherweight.models.sequence_network import SequenceNetwork
from featherweight.train.objectives.base import Objective, Task, normalised
from featherweight.train.objectives.following import Following
from featherweight.train.objectives.masks import block_masks, span_masks

_PREDICTOR_STATES = 8


class _Masked(Objective):
    """What both have in common."""

    causal: ClassVar[bool] = False
    paper: ClassVar[str] = "2605.12241"

    momentum: float = Field(0.99, ge=0, le=1, description="of the teacher at the start")
    final_momentum: float = Field(1.0, ge=0, le=1, description="of the teacher at the end; it rises linearly")
    blocks: int = Field(4, ge=1, description="target blocks")
    block: tuple[float, float] = Field((0.15, 0.2), description="least and greatest length of one, share of all")
    context: tuple[float, float] = Field((0.85, 1.0), description="the same of the block that is seen around them")
    kept: float = Field(0.2, ge=0, lt=1, description="share of the positions that is seen at least")

    def hidden(self, rows: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions to predict, and positions that are seen."""
        return block_masks(rows, length, self.blocks, self.block, self.context, self.kept, generator)

    def task(self, network: SequenceNetwork, generator: torch.Generator) -> Task:
        return MaskedTask(network, self, generator)

    def predictor(self, network: SequenceNetwork, generator: torch.Generator) -> nn.Module:
        """What stands behind the student."""
        return nn.Identity()

    @abstractmethod
    def targets(self, states: list[torch.Tensor]) -> torch.Tensor:
        """From the teacher's states, what goes in and then every layer, to what is predicted."""

    @abstractmethod
    def difference(self, predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of hidden positions, [positions, width] each; a scalar."""


class MaskedTask(Task):
    """A student with a mask's vector, a teacher and perhaps a predictor."""

    def __init__(self, network: SequenceNetwork, fields: _Masked, generator: torch.Generator) -> None:
        super().__init__(network)
        self.fields = fields
        self.mask = nn.Parameter(0.02 * torch.randn(network.width, generator=generator))
        self.predictor = fields.predictor(network, generator)
        self.teacher = Following(network, (fields.momentum, fields.final_momentum))

    def loss(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        encoded = self.network.encoder(inputs)
        rows, length, _ = encoded.shape
        targets, seen = (each.to(encoded.device) for each in self.fields.hidden(rows, length, generator))
        given = torch.where(seen[..., None], encoded, self.mask)
        predicted = self.predictor(self.network.backbone(given))
        return self.fields.difference(predicted[targets], self.wanted(inputs)[targets])

    @torch.no_grad()
    def wanted(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the teacher makes of the whole input, [rows, length, width]."""
        teacher = self.teacher.copy
        assert isinstance(teacher, SequenceNetwork)
        return self.fields.targets(teacher.backbone.states(teacher.encoder(inputs)))

    def after_update(self, share: float) -> None:
        self.teacher.follow(self.network, share)


class JointEmbedding(_Masked):
    """Predicts a teacher's last layer in several hidden blocks, through a predictor."""

    name: ClassVar[str] = "jepa"

    predicts: Literal["state-space", "identity"] = Field(
        "state-space", description="the predictor: one bidirectional block, or none"
    )

    def predictor(self, network: SequenceNetwork, generator: torch.Generator) -> nn.Module:
        if self.predicts == "identity":
            return nn.Identity()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            return Backbone(self.predicts, network.width, 1, _PREDICTOR_STATES, causal=False)

    def targets(self, states: list[torch.Tensor]) -> torch.Tensor:
        return normalised(states[-1])

    def difference(self, predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.smooth_l1_loss(predicted, targets)


class DataToVector(_Masked):
    """Predicts the mean of a teacher's last layers in hidden spans."""

    name: ClassVar[str] = "data2vec"

    layers: int = Field(2, ge=1, description="last layers of the teacher that are averaged")
    masks: Literal["spans", "blocks"] = Field("spans", description="what is hidden")
    start: float = Field(0.065, gt=0, le=1, description="probability that a hidden span starts at a position")
    span: int = Field(10, ge=1, description="positions of a span")

    def hidden(self, rows: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        if self.masks == "blocks":
            return super().hidden(rows, length, generator)
        targets = span_masks(rows, length, self.start, min(self.span, length), generator)
        return targets, ~targets

    def targets(self, states: list[torch.Tensor]) -> torch.Tensor:
        last = states[1:][-self.layers :] or states
        return torch.stack([normalised(each) for each in last]).mean(0)

    def difference(self, predicted: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        width = predicted.shape[-1]
        total: torch.Tensor = nn.functional.smooth_l1_loss(predicted, targets, reduction="sum")
        scale: float = 1 / (len(predicted) * width**0.5)
        return total * scale
