"""Bake-off: the same training with several optimizers, rates and seeds, so that they can be compared fairly.

Every optimizer gets as many rates, spaced alike around where its own search would start, and the same seeds, batches,
schedule and steps. What counts is the held-out loss at the END of the schedule: under a falling rate, rankings half-way
mean nothing (arXiv 2509.02046). A trial that ends no better than it began, or at no number, has diverged.

It measures; `plan.optimizer_choice` compares.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from featherweight.core.batch import Batch
from featherweight.core.errors import TrainingError
from featherweight.core.lazy import torch
from featherweight.core.memory import forget_peak, give_back_memory, peak_memory, resident_memory
from featherweight.core.progress import Progress
from featherweight.train.loop import Schedule, minimise
from featherweight.train.next_token import next_token_loss
from featherweight.train.optimizer_state import counted_bytes
from featherweight.train.optimizers import BASELINE, build_optimizer, embeddings_of, find_optimizer, spread


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        name: for people.
        start: a fresh module of a seed; all that is random in it comes from the seed.
        batches: of a seed, a function from the step to its batch.
        held_out: what is judged on.
        tokens: trained a step.
    """

    name: str
    start: Callable[[int], torch.nn.Module]
    batches: Callable[[int], Callable[[int], Batch]]
    held_out: Sequence[Batch]
    tokens: int


@dataclass(frozen=True)
class Protocol:
    """How it is trained: the same for every optimizer.

    Attributes:
        steps: of a trial.
        rates: of an optimizer.
        factor: from one rate to the next.
        seeds: of a rate.
        warmup: share of the steps in which the rate rises.
        weight_decay: of all but vectors.
        evaluations: of the held-out loss in a trial, the last at its end.
    """

    steps: int = 120
    rates: int = 5
    factor: float = math.sqrt(10)
    seeds: int = 3
    warmup: float = 0.1
    weight_decay: float = 0.0
    evaluations: int = 8


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        loss: held out, at the end of the schedule; infinite where it diverged.
        curve: (tokens trained on, held-out loss), in turn.
        seconds: of a step, the median.
        state: bytes that the optimizer held at the end.
        peak: bytes that the process grew by while training; None where the system does not say.
    """

    optimizer: str
    learning_rate: float
    seed: int
    loss: float
    curve: tuple[tuple[int, float], ...]
    seconds: float
    state: int
    peak: int | None

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.loss)


def bake_off(
    workload: Workload, names: Sequence[str], protocol: Protocol, progress: Progress | None = None
) -> list[Trial]:
    """All trials, optimizer by optimizer.

    Raises:
        FeatherweightError: a name that is unknown or not installed, before anything is trained.
    """
    facts = [find_optimizer(name) for name in names]
    for each in facts:
        each.load()
    grid = [
        (each.name, rate, seed)
        for each in facts
        for rate in spread(each.learning_rate, protocol.rates, protocol.factor)
        for seed in range(protocol.seeds)
    ]
    # The first training of a process loads libraries, which would count as its memory and time.
    run_trial(workload, BASELINE, find_optimizer(BASELINE).learning_rate, 0, replace(protocol, steps=1))
    trials = []
    with (progress or Progress()).track("comparing optimizers", len(grid)) as advance:
        for name, rate, seed in grid:
            trials.append(run_trial(workload, name, rate, seed, protocol))
            advance()
    return trials


def run_trial(
    workload: Workload, name: str, rate: float, seed: int, protocol: Protocol,
    finished: Callable[[torch.nn.Module], None] | None = None,
) -> Trial:  # fmt: skip
    """Trains once; `finished` sees the module at the end of its schedule."""
    give_back_memory()
    known, before = forget_peak(), resident_memory()
    module = workload.start(seed).train()
    optimizer = build_optimizer(
        name, module.named_parameters(), rate, protocol.weight_decay, embeddings_of(module)
    )  # fmt: skip
    watch = _Watch(module, workload, protocol)
    batches = workload.batches(seed)
    schedule = Schedule(protocol.steps, rate, round(protocol.warmup * protocol.steps))
    try:
        minimise(
            module.parameters(), lambda step: batch_loss(module, batches(step)), schedule, name,
            optimizer=optimizer, stop=watch.after,
        )  # fmt: skip
        final = watch.curve[-1][1]
    except TrainingError:
        final = math.inf
    if not final < watch.first:
        final = math.inf
    if finished:
        finished(module)
    return Trial(
        name, rate, seed, final, tuple(watch.curve), statistics.median(watch.seconds or [math.nan]),
        counted_bytes(optimizer), peak_memory() - before if known else None,
    )  # fmt: skip


class _Watch:
    """Times steps and evaluates in between."""

    def __init__(self, module: torch.nn.Module, workload: Workload, protocol: Protocol) -> None:
        self.module, self.workload, self.steps = module, workload, protocol.steps
        self.every = max(1, protocol.steps // protocol.evaluations)
        self.curve: list[tuple[int, float]] = []
        self.seconds: list[float] = []
        self.first = held_out_loss(module, workload.held_out)
        self._since = time.perf_counter()

    def after(self, step: int, _: float) -> bool:
        self.seconds.append(time.perf_counter() - self._since)
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            self.curve.append(((step + 1) * self.workload.tokens, held_out_loss(self.module, self.workload.held_out)))
        self._since = time.perf_counter()
        return False


def batch_loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Mean NLL of the predictions that count."""
    total, count = next_token_loss(module, batch)
    return total / count


def held_out_loss(module: torch.nn.Module, batches: Sequence[Batch]) -> float:
    """Mean NLL over all predictions that count; infinite where it is no number."""
    was, total, count = module.training, 0.0, 0
    module.eval()
    with torch.no_grad():
        for batch in batches:
            loss, counted = next_token_loss(module, batch)
            total, count = total + float(loss), count + counted
    module.train(was)
    return total / count if count and math.isfinite(total) else math.inf
