"""Joint architecture and quantization search: sizes and number formats in one differentiable search (arXiv 2606.04063).

The supernet of `train.supernet` is searched under a limit (`train.bilevel`); the likeliest choices within the limit are
then judged one by one, rounded as they will be, then those next to the best of them as long as that helps, and the best
are handed on as ordinary recipes. The control is
`sequential`: first the best sizes with nothing rounded, at the bytes that a reference format would take, then the best
formats for those sizes, with half of the steps and half of the judgements each.

What the search's corrections learnt is not part of a recipe: candidates are judged without it, and training the chosen
model belongs to the step `heal` where that is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.core.lazy import torch
from featherweight.core.memory import give_back_memory
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.plan.expected import ExpectedCost, Limits, require_feasible
from featherweight.plan.shortlist import neighbours, shortlist
from featherweight.train.bilevel import Trace, Turns, search
from featherweight.train.decisions import Decisions, one_hot
from featherweight.train.space import FORMAT, Option, Space
from featherweight.train.supernet import Supernet

_EXACT = "F32"  # what nothing is rounded in


@dataclass(frozen=True)
class Effort:
    """What a search may spend.

    Attributes:
        turns: of the bi-level loop.
        judged: choices that are run on the validation rows at the end: half of them the likeliest, half of them next to
            the best of those.
        rank: of the corrections.
        size_weight, latency_weight: of the expected costs in the decisions' loss.
        drawn: decisions sampled one-hot instead of mixed.
    """

    turns: Turns = field(default_factory=Turns)
    judged: int = 8
    rank: int = 4
    size_weight: float = 10.0
    latency_weight: float = 0.1
    drawn: tuple[str, ...] = ("blocks",)

    def half(self) -> Effort:
        """Half of the rounds and of the judgements."""
        turns = dataclasses.replace(self.turns, rounds=max(self.turns.rounds // 2, 1))
        return dataclasses.replace(self, turns=turns, judged=max(self.judged // 2, 1))


@dataclass(frozen=True)
class Found:
    """A choice within the limits.

    Attributes:
        choice: one option of every decision.
        nbytes: of all its tensors.
        nll: on the validation rows, without corrections, rounded to nearest.
    """

    choice: Mapping[str, Option]
    nbytes: int
    nll: float


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        found: judged choices, best first.
        probabilities: of every decision's options at the end.
        trace: losses and settled decisions.
        seconds: it took.
    """

    found: Sequence[Found]
    probabilities: Mapping[str, Mapping[str, float]]
    trace: Trace
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "found": [{"choice": dict(each.choice), "bytes": each.nbytes, "nll": each.nll} for each in self.found],
            "probabilities": {name: dict(each) for name, each in self.probabilities.items()},
            "settled": self.trace.settled,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class Task:
    """What is searched: a parent, what choices cost, and the two splits.

    Attributes:
        cost: of the choices of a space.
        training, validation: rows of tokens, [rows, length].
        rounded: whether choices are run in their formats; False = only their bytes are counted.
    """

    model: Model
    cost: ExpectedCost
    limits: Limits
    training: torch.Tensor
    validation: torch.Tensor
    rounded: bool = True

    @property
    def space(self) -> Space:
        return self.cost.space

    def within(self, space: Space, **changes: Any) -> Task:
        """The same in a part of the space."""
        return dataclasses.replace(self, cost=self.cost.of(space), **changes)


def joint_search(task: Task, run: Run, effort: Effort) -> Outcome:
    """Sizes and formats together.

    Raises:
        SearchError: nothing in the space keeps to the limits.
    """
    require_feasible(task.cost, task.limits)
    started = time.perf_counter()
    space = task.space if task.rounded else task.space.only(dict.fromkeys(task.space.formats.values(), _EXACT))
    supernet = Supernet(task.model, space, task.cost.order, effort.rank, run.generator("corrections"), run.device)
    decisions = Decisions(task.space, run.generator("decisions"), effort.drawn)

    def penalty(draw: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return task.limits.excess(task.cost, draw, effort.size_weight, effort.latency_weight)

    with contextlib.closing(supernet):
        trace = search(supernet, decisions, task.training, task.validation, penalty, effort.turns, run.progress)
        found = _best(supernet, task, decisions, effort)
    del supernet
    give_back_memory()  # it held all weights in all formats
    return Outcome(found, _readable(decisions), trace, time.perf_counter() - started)


def sequential_search(task: Task, run: Run, effort: Effort, reference: str) -> Outcome:
    """The control: sizes first, with nothing rounded, then formats for these sizes.

    Args:
        task: what is searched.
        run: seed and device.
        effort: of both searches together.
        reference: the format whose bytes stand for the formats to come while sizes are searched.

    Raises:
        SearchError: nothing in the space keeps to the limits.
    """
    require_feasible(task.cost, task.limits)
    first = joint_search(_sizes_only(task, reference), run, effort.half())
    sizes = {name: each for name, each in first.found[0].choice.items() if not name.startswith(FORMAT)}
    second = joint_search(task.within(task.space.only(sizes)), run, effort.half())
    one, other = first.trace, second.trace
    trace = Trace(one.weights + other.weights, one.decisions + other.decisions, one.settled + other.settled)
    probabilities = {**second.probabilities, **{name: first.probabilities[name] for name in sizes}}
    return Outcome(second.found, probabilities, trace, first.seconds + second.seconds)


def _sizes_only(task: Task, reference: str) -> Task:
    """Every format taken to be the reference; where even the smallest sizes do not fit with it, only they are left."""
    formats = set(task.space.formats.values())
    fixed = {
        name: reference if reference in task.space.options[name] else task.space.options[name][0] for name in formats
    }
    sizes = task.within(task.space.only(fixed), rounded=False)
    least = sizes.cost.smallest()
    if task.limits.allows(sizes.cost, least):
        return sizes
    return task.within(task.space.only(least), rounded=False, limits=Limits(sizes.cost.bytes_of(least)))


def _best(supernet: Supernet, task: Task, decisions: Decisions, effort: Effort) -> list[Found]:
    """Judges the likeliest choices, then step by step the next ones to the best; best first."""
    batch = effort.turns.batch
    first = shortlist(task.cost, task.limits, decisions, -(-effort.judged // 2))
    found = [_judged(supernet, task, choice, batch) for choice in first]
    while len(found) < effort.judged:
        found.sort(key=lambda each: each.nll)
        seen = [each.choice for each in found]
        near = neighbours(task.cost, task.limits, decisions, found[0].choice)
        fresh = next((choice for choice in near if choice not in seen), None)
        if fresh is None:
            break
        found.append(_judged(supernet, task, fresh, batch))
    return sorted(found, key=lambda each: each.nll)


def _judged(supernet: Supernet, task: Task, choice: Mapping[str, Option], batch: int) -> Found:
    """A choice as its recipe will make it: without corrections."""
    draw = one_hot(task.space, choice)
    with torch.no_grad():
        losses = [float(supernet.loss(rows, draw, "none")) * len(rows) for rows in task.validation.split(batch)]
    return Found(choice, task.cost.bytes_of(choice), sum(losses) / len(task.validation))


def _readable(decisions: Decisions) -> dict[str, dict[str, float]]:
    return {
        name: dict(zip(map(str, decisions.space.options[name]), each.tolist(), strict=True))
        for name, each in decisions.probabilities().items()
    }
