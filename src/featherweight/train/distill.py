"""Distillation: a student learns to predict what its parent predicts, and to pass through the same hidden states.

Loss = KL(parent || student) of the next token, nats, + weight x the squared distance of hidden states as a share of the
parent's squared length (mean over tokens and matched blocks; a few tokens with huge states would otherwise be all that
counts). Logits exist for a few hundred tokens at a time: the gradient with respect to the final hidden states,
(q - p) W, is computed with the divergence itself, so no [tokens, vocabulary] tensor waits for the backward pass.

What training comes to is judged on the way as it would be stored, by a function that the caller gives; the best state
is kept, and the state before training is one of them: a result is never worse than what it started from, in the eyes
of that judge. At the end shares of the whole change are judged too: what a few steps learn grows with the length of the
change, what they add of noise with its square. Logits and losses as in arXiv 2407.14679.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.core.data import TokenSet
from featherweight.core.errors import TrainingError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.student import Student
from featherweight.train.teacher import Teacher

_SHARES = (0.5, 0.25)
_CHUNK = 512  # tokens whose logits are in memory at once
Judge = Callable[[Model], float]
"""Damage of a model on rows that are not trained on; lower is better."""


def divergence(
    student: torch.Tensor, student_head: torch.Tensor, teacher: torch.Tensor, teacher_head: torch.Tensor
) -> torch.Tensor:
    """Mean KL(teacher || student) of the next token, nats; its gradient goes to the student's hidden states.

    Args:
        student: final hidden states [rows, tokens, hidden].
        student_head: [vocabulary, hidden]; it gets no gradient.
        teacher: final hidden states [rows, tokens, the teacher's hidden size].
        teacher_head: [vocabulary, the teacher's hidden size].
    """
    ours, theirs = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
    total, gradient = torch.zeros((), device=ours.device), torch.empty_like(ours)
    with torch.no_grad():
        for first in range(0, len(ours), _CHUNK):
            part = slice(first, first + _CHUNK)
            p = torch.log_softmax(theirs[part] @ teacher_head.T, -1)
            q = torch.log_softmax(ours[part] @ student_head.T, -1)
            total += (p.exp() * (p - q)).sum()
            gradient[part] = (q.exp() - p.exp()) @ student_head
    return (total + ((ours - ours.detach()) * gradient).sum()) / len(ours)


def mismatch(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared distance of hidden states [rows, tokens, hidden] as a share of the teacher's, averaged over tokens."""
    return ((student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp(min=1e-12)).mean()


@dataclass(frozen=True)
class Objective:
    """The loss of a student on some rows.

    Attributes:
        tokens: rows to train on.
        teacher: what the parent computes on them.
        hidden: weight of the hidden states.
    """

    tokens: TokenSet
    teacher: Teacher
    hidden: float

    def loss(self, student: Student, rows: list[int]) -> torch.Tensor:
        """Of some rows, by index."""
        final, after = student.states(self.tokens.ids[rows], list(self.teacher.after))
        theirs = self.teacher.final[rows].to(student.device)
        total = divergence(final, student.head, theirs, self.teacher.head)
        for block, states in self.teacher.after.items():
            share = self.hidden / len(self.teacher.after)
            total = total + share * mismatch(after[block], states[rows].to(student.device))
        return total


@dataclass(frozen=True)
class Training:
    """How a student is trained.

    Attributes:
        schedule: steps, and the course of the learning rate as a share of its highest value.
        rates: highest learning rates of what a student trains: "plain", "grid", "vectors".
        batch: rows a step.
        checks: how often the student is judged, evenly spread over the steps; the last time at the end.
        patience: checks in a row without a better one, after which training ends.
    """

    schedule: Schedule
    rates: Mapping[str, float]
    batch: int
    checks: int
    patience: int


@dataclass
class Outcome:
    """What training came to.

    Attributes:
        model: the best one.
        before, after: its damage before training and that of the best.
        best: the step after which it was found; 0 = before training.
        share: how much of the change until then it has.
        steps: steps that were done.
        stopped: why training ended early; empty where it did not.
    """

    model: Model
    before: float
    after: float
    best: int = 0
    share: float = 1.0
    steps: int = 0
    stopped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a receipt."""
        return {key: value for key, value in self.__dict__.items() if key != "model"}


def distill(
    student: Student,
    objective: Objective,
    training: Training,
    judge: Judge,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Outcome:
    """Trains a student and returns the best of its states, that before training included.

    Args:
        student: the model in training; it is changed.
        objective: its loss.
        training: how long and how.
        judge: gives the damage of a model.
        generator: decides the order of the rows.
        progress: is told of every step.
    """
    damage = judge(student.model)
    keeper = _Keeper(student, judge, training, Outcome(student.model, damage, damage))
    batch_of = shuffled(len(objective.tokens.ids), training.batch, generator)
    trained = {kind: each for kind, each in student.trained().items() if each}
    groups = [{"params": each, "factor": training.rates[kind]} for kind, each in trained.items()]
    try:
        minimise(
            itertools.chain.from_iterable(trained.values()),
            lambda step: objective.loss(student, list(batch_of(step))),
            training.schedule,
            "healing",
            progress,
            torch.optim.AdamW(groups, weight_decay=0.0),
            stop=keeper.stop,
        )
    except TrainingError as error:  # what was good before it stays good
        keeper.outcome.stopped = str(error)
    for share in _SHARES:
        keeper.better(share)
    return keeper.outcome


class _Keeper:
    """Judges a student now and then, keeps its best state, and says when there is nothing more to hope for."""

    def __init__(self, student: Student, judge: Judge, training: Training, outcome: Outcome) -> None:
        self.student, self.judge, self.training, self.outcome = student, judge, training, outcome
        steps = training.schedule.steps
        self.due = {-(-steps * (number + 1) // training.checks) for number in range(training.checks)}
        self.worse = 0

    def better(self, share: float = 1.0) -> bool:
        """Whether the present state, with a share of its change, is the best so far; then it is kept."""
        outcome, model = self.outcome, self.student.model.with_changes(self.student.stored(share))
        damage = self.judge(model)
        if not damage < outcome.after:
            return False
        outcome.model, outcome.after, outcome.best, outcome.share = model, damage, outcome.steps, share
        return True

    def stop(self, step: int, loss: float) -> bool:
        self.outcome.steps = step + 1
        if step + 1 not in self.due:
            return False
        self.worse = 0 if self.better() else self.worse + 1
        if self.worse < self.training.patience or step + 1 == self.training.schedule.steps:
            return False
        self.outcome.stopped = f"{self.worse} checks in a row found nothing better"
        return True
