"""The trainer: packed rows, a module with some trainable parameters, and the one loop (`train.loop`).

An update's loss is the sum over its trainable labels divided by their number, in however many parts and processes it is
computed. Everything random in a step is drawn from the seed and the step's number. With a file to keep its state in, a
training that was killed at any point goes on and comes to the same parameters, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.attach import seeded
from featherweight.core.errors import TrainingError
from featherweight.core.interruption import Interruption, noticed_interruption
from featherweight.core.lazy import torch
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.train import checkpoints
from featherweight.train.checkpoints import Course
from featherweight.train.loop import Schedule, minimise, shuffled
from featherweight.train.next_token import LossOf, next_token_loss
from featherweight.train.processes import Processes
from featherweight.train.unfreezing import Unfreezing

StepLoss = Callable[[Any, Callable[[], "torch.Tensor"], "torch.Generator"], "torch.Tensor"]
OptimizerOf = Callable[[Sequence["torch.Tensor"]], "torch.optim.Optimizer"]


@dataclass(frozen=True)
class Pace:
    """How long, how fast, and how much at a time.

    Attributes:
        schedule: number of updates and learning rates.
        batch: rows of an update.
        parts: parts in which they pass the model.
        weight_decay: of the parameters.
        clip: greatest norm of an update's gradient; None = any.
    """

    schedule: Schedule
    batch: int = 8
    parts: int = 1
    weight_decay: float = 0.0
    clip: float | None = 1.0


@dataclass(frozen=True)
class Hooks:
    """What other parts may change.

    Attributes:
        loss_of: from the module and a batch to the sum of losses and their number.
        step_loss: what is minimised, from the module, a function that gives the loss, and a generator.
        optimizer_of: makes the optimizer; None = AdamW.
        unfreezing: which parameters train from which update on; None = all from the first.
        stop: called with the number of every update and its loss, as by `minimise`; True ends the training. What it
            was told before an interruption, it is told again.
        watch: loss on held-out rows, asked for after the updates named in `watch_at`.
        watch_at: numbers of updates done.
    """

    loss_of: LossOf = next_token_loss
    step_loss: StepLoss = lambda module, loss, generator: loss()
    optimizer_of: OptimizerOf | None = None
    unfreezing: Unfreezing | None = None
    stop: Callable[[int, float], bool] | None = None
    watch: Callable[[], float] | None = None
    watch_at: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Kept:
    """Where the state is kept.

    Attributes:
        path: the file; None = nowhere.
        every: updates from one writing to the next.
        resume: go on from the file where there is one.
        facts: plain values that say which training this is.
    """

    path: Path | None = None
    every: int = 20
    resume: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def adamw(parameters: Sequence[torch.Tensor], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW in one pass over all parameters: they are many and small."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


class Trainer:
    """Trains what of a module requires a gradient.

    Args:
        module: on the run's device; in training mode while it trains.
        rows: what it is trained on.
        pace: how.
        run: gives seed, device and progress.
        label: names the training; its random numbers depend on it.
        hooks: what is other than usual.
        processes: those that train together.
    """

    def __init__(
        self,
        module: Any,
        rows: PackedRows,
        pace: Pace,
        run: Run,
        label: str = "training",
        hooks: Hooks | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.module, self.rows, self.pace, self.run, self.label = module, rows, pace, run, label
        self.hooks, self.processes = hooks or Hooks(), processes or Processes()
        self.parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
        if not self.parameters:
            raise TrainingError(label, "nothing of the model is trainable", "name other target modules")
        self.order = shuffled(len(rows), pace.batch, run.generator(f"{label}/order"))

    def train(self, kept: Kept | None = None) -> Course:
        """Trains to the end of the schedule, or until a hook or the user stops it.

        Raises:
            TrainingError: a loss is not a number; the batch is named, and the last good state is kept.
            KeyboardInterrupt: the user stopped it; the state is kept.
        """
        kept, trained = kept or Kept(), list(self.parameters.values())
        optimizer = self._optimizer(trained)
        course = Course()
        if kept.resume and kept.path is not None and kept.path.is_file():
            course = checkpoints.load(kept.path, kept.facts, self.parameters, optimizer)
        self.module.train()
        try:
            with noticed_interruption() as interruption:
                self._minimise(trained, optimizer, course, kept, interruption)
        finally:
            self.module.eval()
        if interruption.asked:
            raise KeyboardInterrupt
        return course

    def _optimizer(self, trained: list[torch.Tensor]) -> torch.optim.Optimizer:
        if self.hooks.optimizer_of is not None:
            return self.hooks.optimizer_of(trained)
        return adamw(trained, self.pace.schedule.learning_rate, self.pace.weight_decay)

    def _minimise(
        self,
        trained: list[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        course: Course,
        kept: Kept,
        interruption: Interruption,
    ) -> None:
        def updated(step: int, loss: float) -> bool:
            course.losses.append(self.processes.add(loss))
            self._watch(course)
            ended = self._stops(step, course.losses[-1]) or interruption.asked
            if ended or course.steps % kept.every == 0 or course.steps == self.pace.schedule.steps:
                self._keep(kept, course, optimizer)
            return ended

        if self._over(course):
            return
        if not course.steps:
            self._watch(course)
        try:
            minimise(
                trained, self._guarded(), self.pace.schedule, self.label, self.run.progress, optimizer,
                clip=self.pace.clip, accumulate=self.pace.parts, average=False, start=course.steps, stop=updated,
                gathered=lambda step: self.processes.add_gradients(trained),
            )  # fmt: skip
        except TrainingError as error:
            self._keep(kept, course, optimizer)
            raise self._named(error, course.steps, kept) from None

    def _guarded(self) -> Callable[[int], torch.Tensor]:
        """The loss, which freezes and unfreezes first where a schedule says so."""
        if self.hooks.unfreezing is None:
            return self._loss
        return self.hooks.unfreezing.guard(self.parameters.items(), self._loss, self.pace.parts)

    def _stops(self, step: int, loss: float) -> bool:
        return self.hooks.stop is not None and self.hooks.stop(step, loss)

    def _over(self, course: Course) -> bool:
        """Whether a training that is resumed was at its end already."""
        stopped = [self._stops(step, loss) for step, loss in enumerate(course.losses)]
        return course.steps >= self.pace.schedule.steps or any(stopped[-1:])

    def _watch(self, course: Course) -> None:
        if self.hooks.watch is not None and course.steps in self.hooks.watch_at:
            self.module.eval()
            course.held_out[course.steps] = self.hooks.watch()
            self.module.train()

    def _keep(self, kept: Kept, course: Course, optimizer: torch.optim.Optimizer) -> None:
        if kept.path is not None and self.processes.index == 0:
            checkpoints.save(kept.path, kept.facts, course, self.parameters, optimizer)

    def _named(self, error: TrainingError, step: int, kept: Kept) -> TrainingError:
        where = self.rows.where(self.order(step))
        mend = "look at these samples, or start again with a lower learning rate"
        if kept.path is not None:
            mend += f"; the state after {step} updates is kept in {kept.path}"
        return TrainingError(f"{self.label}, update {step + 1} ({_short(where)})", error.why, mend)

    def _loss(self, index: int) -> torch.Tensor:
        """The share of an update's loss that one part of its rows has, on this process."""
        step, part = divmod(index, self.pace.parts)
        rows = self.order(step)
        mine = _share(rows, self.processes.index * self.pace.parts + part, self.processes.count * self.pace.parts)
        if not mine:
            nothing: torch.Tensor = 0.0 * next(each for each in self.parameters.values() if each.requires_grad).sum()
            return nothing
        batch = self.rows.batch(mine).to(self.run.device)
        count = self.rows.trainable(rows)

        def loss() -> torch.Tensor:
            total, _ = self.hooks.loss_of(self.module, batch)
            return total / count

        with seeded(self.run.generator(f"{self.label}/step {step} part {part}")):
            # All parts of an update draw the same, so that their number changes nothing.
            return self.hooks.step_loss(self.module, loss, self.run.generator(f"{self.label}/step {step}"))


def _share(rows: Sequence[int], number: int, shares: int) -> Sequence[int]:
    """One of so many shares of the rows, as equal as they can be."""
    return rows[number * len(rows) // shares : (number + 1) * len(rows) // shares]


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:150]}…"
