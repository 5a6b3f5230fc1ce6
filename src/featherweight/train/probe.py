"""What a trained network knows: a small head learns a task from its features, which stay as they are or do not.

- "linear": softmax regression on frozen features, to convergence: what lies open.
- "mlp": a hidden layer between: what is there at all.
- "finetune": that regression, and then the whole network trained with it: what it is a good start for.

Features are the mean over positions of what the backbone gives. A head is trained alike for everything that is
compared: the same rows, steps, rates. The three ways are those of arXiv 2605.12241.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from featherweight.core.labelled import Labelled
from featherweight.models.pooling import Pool, pooled
from featherweight.models.sequence_network import SequenceNetwork
from featherweight.train.head import Fitting, train_head, train_rows
from featherweight.train.regression import softmax_regression

Way = Literal["linear", "mlp", "finetune"]
WAYS: tuple[Way, ...] = ("linear", "mlp", "finetune")
_BATCH = 512


@dataclass(frozen=True)
class Protocol:
    """How a head is trained.

    Attributes:
        way: which head, and whether the network learns with it.
        labels: rows with a label that it learns from at most.
        ridge: weight of the squared weights of a regression.
        fitting: steps and rate of an "mlp".
        finetuning: those of the network with it.
        pool: how positions become one vector.
    """

    way: Way = "linear"
    labels: int = 300
    ridge: float = 1e-3
    fitting: Fitting = field(default_factory=lambda: Fitting(300, 1e-2, 1e-2, 64))
    finetuning: Fitting = field(default_factory=lambda: Fitting(100, 1e-3, 1e-2, 64))
    pool: Pool = "mean"


@dataclass(frozen=True)
class Question:
    """A task with the rows of each part.

    Attributes:
        data: inputs and classes.
        parts: rows of "training", "validation" and "test".
    """

    data: Labelled
    parts: Mapping[str, Sequence[int]]

    @property
    def inputs(self) -> torch.Tensor:
        """The inputs, which are a tensor."""
        assert isinstance(self.data.inputs, torch.Tensor)
        return self.data.inputs


@dataclass(frozen=True)
class Answer:
    """What a head found.

    Attributes:
        validation: balanced accuracy on the validation part.
        rows: a number for every row of the test part; their mean is the balanced accuracy on it.
    """

    validation: float
    rows: tuple[float, ...]

    @property
    def test(self) -> float:
        """Balanced accuracy on the test part."""
        return sum(self.rows) / len(self.rows)


def probe(network: SequenceNetwork, question: Question, protocol: Protocol, generator: torch.Generator) -> Answer:
    """Balanced accuracy on the validation and the test part: the share that is found of a class, mean over classes.

    Args:
        network: it stays as it is.
        question: the task.
        protocol: how its head is trained.
        generator: draws the head and the order of rows.
    """
    rows = {name: list(each) for name, each in question.parts.items()}
    drawn = torch.randperm(len(rows["training"]), generator=generator)[: protocol.labels]
    rows["training"] = [rows["training"][each] for each in drawn.tolist()]
    inputs = {name: question.inputs[each] for name, each in rows.items()}
    targets = {name: question.data.targets[each].to(device_of(network)) for name, each in rows.items()}
    network = copy.deepcopy(network).requires_grad_(False).eval()
    known = {name: features(network, each, protocol.pool) for name, each in inputs.items()}
    head = _head(known["training"], targets["training"], len(question.data.classes), protocol, generator)
    if protocol.way == "finetune":
        _finetune(network, head, inputs["training"], targets["training"], protocol, generator)
        known = {name: features(network, each, protocol.pool) for name, each in inputs.items()}
    found = {name: balanced_hits(head(known[name]), targets[name]).tolist() for name in ("validation", "test")}
    return Answer(sum(found["validation"]) / len(found["validation"]), tuple(round(each, 6) for each in found["test"]))


def _head(
    known: torch.Tensor, targets: torch.Tensor, classes: int, protocol: Protocol, generator: torch.Generator
) -> torch.nn.Module:
    """A trained head on frozen features."""
    from featherweight.models.grafted import dense_layers

    if protocol.way != "mlp":
        return softmax_regression(known, targets, classes, protocol.ridge)
    head = dense_layers([known.shape[1], known.shape[1], classes], generator).to(known.device)
    train_head(head, known, targets, protocol.fitting, generator)
    return head


def _finetune(
    network: SequenceNetwork, head: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor,
    protocol: Protocol, generator: torch.Generator,
) -> None:  # fmt: skip
    """Trains network and head together, in place."""
    device = device_of(network)

    def loss(rows: Sequence[int]) -> torch.Tensor:
        some = list(rows)
        found = head(pooled(network(inputs[some].to(device)), protocol.pool))
        return torch.nn.functional.cross_entropy(found, targets[some])

    trained = [*network.parameters(), *head.parameters()]
    train_rows(trained, loss, len(inputs), protocol.finetuning, generator, "fine-tuning")


@torch.no_grad()
def features(network: SequenceNetwork, inputs: torch.Tensor, pool: Pool = "mean") -> torch.Tensor:
    """One vector a row, [rows, width]."""
    device = device_of(network)
    return torch.cat([pooled(network(part.to(device)), pool) for part in inputs.split(_BATCH)])


def balanced_hits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """For every row 0, or where its class is found, 1 over the share of that class times the number of classes.

    Their mean is the balanced accuracy: the share of each class that is found, averaged over the classes that occur; by
    chance 1 / classes.

    Args:
        logits: [rows, classes].
        targets: int64 [rows].
    """
    counts = torch.bincount(targets)
    weights = len(targets) / (counts.clamp(min=1) * (counts > 0).sum())
    return torch.where(logits.argmax(1) == targets, weights.double()[targets], 0.0)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device
