"""The bi-level search: corrections learn on one split of the text, decisions on another, in turns.

First order: each side takes a few steps while the other one stands still. Decisions pay for quality on tokens that the
corrections never saw, and for what they are expected to cost. After every round decisions that are nearly settled lose
their weak options. arXiv 2606.04063 gives the two splits and the settling; turns, rates and thresholds are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from featherweight.core.lazy import torch
from featherweight.core.progress import Progress
from featherweight.train.decisions import Decisions, Draw
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.supernet import Supernet

Penalty = Callable[[Draw], "torch.Tensor"]
"""What expected costs add to the loss of the decisions."""


@dataclass(frozen=True)
class Turns:
    """How much is spent on each side.

    Attributes:
        rounds: turns of both sides.
        weight_steps: of the corrections, each round.
        decision_steps: of the decisions, each round.
        weight_rate, decision_rate: learning rates.
        batch: rows of tokens a step.
        settle_below: entropy, as a share of the largest, below which a decision loses its weak options.
        settle_from: share of the rounds after which decisions may settle. At the start the penalty outweighs quality
            wherever the limit is tight, and a depth that settled then could never come back.
        alone: first rounds in which only the corrections learn.
    """

    rounds: int = 10
    weight_steps: int = 4
    decision_steps: int = 8
    weight_rate: float = 1e-3
    decision_rate: float = 0.2
    batch: int = 8
    settle_below: float = 0.5
    settle_from: float = 0.6
    alone: int = 1


@dataclass
class Trace:
    """What the losses were, step by step, and which decisions were settled in which round."""

    weights: list[float] = field(default_factory=list)
    decisions: list[float] = field(default_factory=list)
    settled: list[tuple[int, str]] = field(default_factory=list)


def search(
    supernet: Supernet,
    decisions: Decisions,
    training: torch.Tensor,
    validation: torch.Tensor,
    penalty: Penalty,
    turns: Turns,
    progress: Progress | None = None,
) -> Trace:
    """Moves corrections and decisions in turns, in place.

    Args:
        supernet: computes mixtures.
        decisions: to be taken.
        training: rows of tokens for the corrections, [rows, length].
        validation: rows of tokens for the decisions, [rows, length].
        penalty: what expected costs add to the decisions' loss.
        turns: how long and how fast.
        progress: what is told of every round.
    """
    sides = _Sides(supernet, decisions, training, validation, penalty, turns)
    trace = Trace()
    with (progress or Progress()).track("searching architecture and formats", turns.rounds) as advance:
        for number in range(turns.rounds):
            trace.weights += sides.learn()
            if number >= turns.alone and decisions.open:
                trace.decisions += sides.decide()
                if number >= turns.settle_from * turns.rounds:
                    trace.settled += [(number, name) for name in decisions.settle(turns.settle_below)]
            advance()
    return trace


class _Sides:
    """The two optimisers and the rows that each has yet to see."""

    def __init__(
        self,
        supernet: Supernet,
        decisions: Decisions,
        training: torch.Tensor,
        validation: torch.Tensor,
        penalty: Penalty,
        turns: Turns,
    ) -> None:
        self.supernet, self.decisions, self.penalty, self.turns = supernet, decisions, penalty, turns
        self.training, self.validation = training, validation
        self.training_rows = shuffled(len(training), turns.batch, decisions.generator)
        self.validation_rows = shuffled(len(validation), turns.batch, decisions.generator)
        self.weights = supernet.parameters()
        self.logits = [*decisions.logits.values()]
        self.weight_optimizer = torch.optim.AdamW(_leaves(self.weights), weight_decay=0) if self.weights else None
        # Decisions move by the sign of their evidence at first, which needs a short memory.
        self.decision_optimizer = torch.optim.Adam(_leaves(self.logits), betas=(0.5, 0.99)) if self.logits else None
        self.learnt = self.decided = 0

    def learn(self) -> list[float]:
        """A turn of the corrections, each step under another draw of the decisions."""
        if self.weight_optimizer is None or not self.turns.weight_steps:
            return []

        def loss(step: int) -> torch.Tensor:
            draw = {name: each.detach() for name, each in self.decisions.sample().items()}
            rows = self.training[list(self.training_rows(self.learnt + step))]
            return self.supernet.loss(rows, draw, "moving")

        schedule = Schedule(self.turns.weight_steps, self.turns.weight_rate, decay="none")
        losses = minimise(self.weights, loss, schedule, "corrections", optimizer=self.weight_optimizer)
        self.learnt += len(losses)
        self.supernet.moved()
        return losses

    def decide(self) -> list[float]:
        """A turn of the decisions."""
        if self.decision_optimizer is None:
            return []

        def loss(step: int) -> torch.Tensor:
            rows = self.validation[list(self.validation_rows(self.decided + step))]
            quality = self.supernet.loss(rows, self.decisions.sample())
            return quality + self.penalty(self.decisions.probabilities())

        schedule = Schedule(self.turns.decision_steps, self.turns.decision_rate, decay="none")
        losses = minimise(self.logits, loss, schedule, "decisions", optimizer=self.decision_optimizer, clip=None)
        self.decided += len(losses)
        return losses


def _leaves(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [each.requires_grad_(True) for each in tensors]
