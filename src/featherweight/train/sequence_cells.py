"""Cells of sequence networks: a backbone learns from rows without labels, and a head is asked what it knows.

What a cell costs is fixed: a number of updates, or of floating-point operations, from which the updates follow for each
backbone and objective. The same seed gives the same rows, in the same order, to every backbone; a larger number of rows
holds the smaller one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from featherweight.core.run import Run
from featherweight.models.backbone import Backbone, matched, parameters_of
from featherweight.models.sequence_network import SequenceNetwork, SignalEncoder, TokenEncoder
from featherweight.train.cells import Cell, Trial, first_and_last, updates_within
from featherweight.train.flops import flops_of
from featherweight.train.head import Fitting
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.objectives.base import Objective, Task
from featherweight.train.probe import Protocol, Question, probe

_WARMUP = 0.05
_POSITIONS = 128


@dataclass(frozen=True)
class Design:
    """The network that all cells share but for the backbone.

    Attributes:
        width: channels.
        layers: blocks of the backbone.
        parameters: that the backbone should have, whatever mixes its positions.
        kernels, strides: of the encoder of signals.
        dropout: of the backbone.
    """

    width: int = 32
    layers: int = 2
    parameters: int = 6500
    kernels: tuple[int, ...] = (3, 1)
    strides: tuple[int, ...] = (1, 1)
    dropout: float = 0.0


@dataclass(frozen=True)
class World:
    """What there is to learn.

    Attributes:
        name: for people.
        digest: of everything in it.
        inputs: rows without labels: float32 [rows, samples, channels], or tokens, int64 [rows, length].
        questions: tasks with their labels, by name.
        tokens: different ones; 0 = signals.
    """

    name: str
    digest: str
    inputs: torch.Tensor
    questions: Mapping[str, Question]
    tokens: int = 0

    def positions(self, design: Design) -> int:
        """Of a row, behind the encoder."""
        length = int(self.inputs.shape[1])
        return length if self.tokens else -(-length // math.prod(design.strides))


def suited(world: World) -> Design:
    """A design whose encoder leaves at most 128 positions of a signal."""
    stride = 1 if world.tokens else -(-int(world.inputs.shape[1]) // _POSITIONS)
    return Design(kernels=(max(3, 2 * stride - 1), 1), strides=(stride, 1))


@dataclass(frozen=True)
class SequenceCells:
    """Trains and judges cells in a world.

    Attributes:
        world: what there is to learn.
        backbones: by name.
        known: objectives by name.
        design: of the networks.
        fitting: updates, batch and weight decay; the learning rate is the cell's.
        protocol: of the head.
        flops: of a cell, instead of the number of updates.
        device: where networks are trained.
    """

    world: World
    backbones: Sequence[str]
    known: Mapping[str, Objective]
    design: Design = field(default_factory=Design)
    fitting: Fitting = field(default_factory=lambda: Fitting(250, 3e-3, 1e-3, 64))
    protocol: Protocol = field(default_factory=Protocol)
    flops: int | None = None
    device: str = "cpu"

    @property
    def threads(self) -> int:
        """One: networks are tiny, and several would wait for each other."""
        return 1

    @property
    def tasks(self) -> Sequence[str]:
        return list(self.world.questions)

    def facts(self) -> dict[str, Any]:
        objectives = {name: each.model_dump(mode="json") for name, each in self.known.items()}
        parts = {
            task: {name: len(rows) for name, rows in each.parts.items()} for task, each in self.world.questions.items()
        }
        return {
            "world": self.world.digest, "design": asdict(self.design), "objectives": objectives, "parts": parts,
            "fitting": asdict(self.fitting), "protocol": asdict(self.protocol), "flops": self.flops,
        }  # fmt: skip

    def check(self) -> None:
        """Refuses what cannot be trained, before anything is.

        Raises:
            FeatherweightError: a backbone that cannot be so small, an objective that does not suit the sequences.
        """
        for backbone in self.backbones:
            for objective in self.known:
                self.steps(backbone, objective)

    def network(self, backbone: str, causal: bool, seed: int) -> SequenceNetwork:
        """A fresh network whose weights depend on the seed alone."""
        design, world = self.design, self.world
        inner = matched(backbone, design.width, design.layers, causal, design.parameters)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = Backbone(backbone, design.width, design.layers, inner, causal, design.dropout)
            if world.tokens:
                return SequenceNetwork(TokenEncoder(world.tokens, design.width), body).to(self.device)
            encoder = SignalEncoder(world.inputs.shape[2], design.width, design.kernels, design.strides)
            return SequenceNetwork(encoder, body).to(self.device)

    def train(self, cell: Cell, rate: float) -> Trial:
        run = Run(seed=cell.seed, device=self.device)
        objective = self.known.get(cell.objective)
        network = self.network(cell.backbone, objective is None or objective.causal, cell.seed)
        steps, flops, losses = 0, 0, []
        if objective is not None:
            task = objective.task(network, run.generator(f"objective/{cell.objective}")).to(self.device)
            steps, each = self.steps(cell.backbone, cell.objective)
            flops = steps * each
            losses = pretrain(task, self._rows(cell, run), replace(self.fitting, steps=steps, learning_rate=rate), run)
        network.eval()
        found = {
            name: probe(network, question, self.protocol, run.generator(f"probe/{name}"))
            for name, question in self.world.questions.items()
        }
        return Trial(
            {name: each.test for name, each in found.items()},
            sum(each.validation for each in found.values()) / len(found),
            parameters_of(network.backbone), flops, steps, first_and_last(losses),
            rows={name: each.rows for name, each in found.items()},
        )  # fmt: skip

    def _rows(self, cell: Cell, run: Run) -> torch.Tensor:
        """The rows of a cell, repeated where they do not fill a batch: every update costs the same."""
        order = torch.randperm(len(self.world.inputs), generator=run.generator("rows"))[: cell.rows]
        filled = order[torch.arange(max(len(order), self.fitting.batch)) % len(order)]
        return self.world.inputs[filled].to(self.device)

    @functools.cached_property
    def _batch(self) -> torch.Tensor:
        inputs = self.world.inputs
        return inputs[torch.arange(self.fitting.batch) % len(inputs)].to(self.device)

    @functools.cached_property
    def _operations(self) -> dict[tuple[str, str], int]:
        return {}

    def steps(self, backbone: str, objective: str) -> tuple[int, int]:
        """Updates of a cell, and the operations of one.

        Raises:
            RecipeError: the operations that a cell may take do not suffice for one update.
        """
        if (backbone, objective) not in self._operations:
            known, run = self.known[objective], Run()
            task = known.task(self.network(backbone, known.causal, 0), run.generator("flops")).to(self.device)
            counted = flops_of(lambda: task.loss(self._batch, run.generator("flops")).backward())
            self._operations[backbone, objective] = counted
        each = self._operations[backbone, objective]
        return updates_within(self.flops, self.fitting.steps, each, f"{backbone} with {objective}"), each


def pretrain(task: Task, inputs: torch.Tensor, fitting: Fitting, run: Run) -> list[float]:
    """Trains a task's network on rows without labels, in place; returns the loss of every update.

    Args:
        task: the network with its objective.
        inputs: all rows, on the network's device.
        fitting: updates, rate, weight decay and batch.
        run: draws the order of rows, negatives and masks.
    """
    if fitting.steps == 0:
        return []
    trained = [each for each in task.parameters() if each.requires_grad]
    batch_of = shuffled(len(inputs), fitting.batch, run.generator("order"))
    generator = run.generator("pretraining")
    optimizer = torch.optim.AdamW(trained, lr=fitting.learning_rate, weight_decay=fitting.weight_decay, fused=True)
    task.train()
    return minimise(
        trained,
        lambda step: task.loss(inputs[list(batch_of(step))], generator),
        Schedule(fitting.steps, fitting.learning_rate, round(_WARMUP * fitting.steps)),
        "pretraining",
        run.progress,
        optimizer,
        after_update=lambda step: task.after_update((step + 1) / fitting.steps),
    )
