"""Which optimizer: scores from a bake-off, when one may be called the winner, and what to use within a memory limit.

Each optimizer is judged at its own best rate, over seeds. A winner is named only when the range of its losses lies
below the range of every other's, and when no other's best rate is at the edge of its grid: an optimizer whose tuning
is not finished is not beaten. The choice within a limit is filtered by memory, then by support, then ranked by loss;
AdamW must have been measured, and is kept where the best is not clearly better.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.budget import format_bytes
from featherweight.core.errors import BudgetError, RecipeError
from featherweight.train.bake_off import Trial
from featherweight.train.optimizer_state import state_bytes
from featherweight.train.optimizers import BASELINE, find_optimizer, installed, role_of

_BASIN = 0.01


@dataclass(frozen=True)
class Score:
    """An optimizer at its best rate.

    Attributes:
        losses: of the seeds; infinite where a trial diverged.
        basin: largest over smallest rate whose mean loss is within 1 % of the best.
        diverged: trials that did, of all its trials.
        trials: how many there were.
        edge: whether the best rate is the smallest or largest that was tried.
        tokens: to the baseline's loss at the end, mean of the seeds; None where a seed never got there.
        seconds: of a step.
        state: bytes of the optimizer.
        peak: bytes that training took; None = unknown.
    """

    optimizer: str
    learning_rate: float
    losses: tuple[float, ...]
    basin: float
    diverged: int
    trials: int
    edge: bool
    tokens: float | None
    seconds: float
    state: int
    peak: int | None

    @property
    def mean(self) -> float:
        """Of the seeds' losses."""
        return statistics.fmean(self.losses)

    def overlaps(self, other: Score) -> bool:
        """Whether the ranges of the two have a point in common."""
        return min(self.losses) <= max(other.losses) and min(other.losses) <= max(self.losses)


@dataclass(frozen=True)
class Verdict:
    """The winner and why, or why there is none."""

    winner: str | None
    reason: str


def scores(trials: Sequence[Trial]) -> list[Score]:
    """One for each optimizer, best first."""
    by_name: dict[str, list[Trial]] = {}
    for trial in trials:
        by_name.setdefault(trial.optimizer, []).append(trial)
    baseline = by_name.get(BASELINE)
    target = statistics.fmean(_best(baseline)[1]) if baseline else None
    return sorted((_score(name, group, target) for name, group in by_name.items()), key=_order)


def _order(score: Score) -> tuple[float, str]:
    return score.mean, score.optimizer


def _by_rate(trials: Sequence[Trial]) -> dict[float, list[float]]:
    found: dict[float, list[float]] = {}
    for trial in sorted(trials, key=lambda each: (each.learning_rate, each.seed)):
        found.setdefault(trial.learning_rate, []).append(trial.loss)
    return found


def _best(trials: Sequence[Trial]) -> tuple[float, list[float]]:
    """The rate with the lowest mean loss, and its losses."""
    return min(_by_rate(trials).items(), key=lambda each: statistics.fmean(each[1]))


def _score(name: str, trials: Sequence[Trial], target: float | None) -> Score:
    rate, losses = _best(trials)
    means = {each: statistics.fmean(found) for each, found in _by_rate(trials).items()}
    near = [each for each, mean in means.items() if mean <= means[rate] * (1 + _BASIN)]
    chosen = [each for each in trials if each.learning_rate == rate]
    peaks = [each.peak for each in chosen if each.peak is not None]
    return Score(
        name, rate, tuple(losses), max(near) / min(near) if math.isfinite(means[rate]) else 0.0,
        sum(each.diverged for each in trials), len(trials), rate in (min(means), max(means)),
        _tokens(chosen, target), statistics.median(each.seconds for each in chosen),
        max(each.state for each in chosen), max(peaks) if peaks else None,
    )  # fmt: skip


def _tokens(trials: Sequence[Trial], target: float | None) -> float | None:
    """Mean over seeds of the tokens after which the target was first reached."""
    if target is None:
        return None
    reached = [next((tokens for tokens, loss in each.curve if loss <= target), None) for each in trials]
    known = [each for each in reached if each is not None]
    return statistics.fmean(known) if len(known) == len(reached) else None


def verdict(found: Sequence[Score]) -> Verdict:
    """The winner of a comparison, or why nobody can be called so."""
    if len(found) < 2:
        return Verdict(None, "one optimizer is no comparison")
    best, *others = sorted(found, key=_order)
    if not math.isfinite(best.mean):
        return Verdict(None, "every optimizer diverged at every rate")
    if len(best.losses) < 2:
        return Verdict(None, "one seed says nothing of chance: compare at least two")
    if close := [each.optimizer for each in others if best.overlaps(each)]:
        return Verdict(None, f"the seeds of {best.optimizer} overlap with those of {', '.join(close)}")
    if edge := [each.optimizer for each in others if each.edge]:
        return Verdict(None, f"the best rate of {', '.join(edge)} is the last of its grid: its tuning is not finished")
    return Verdict(best.optimizer, f"every seed of {best.optimizer} ends below every seed of the others")


@dataclass(frozen=True)
class Candidate:
    """An optimizer considered for a model.

    Attributes:
        state: bytes that it would keep.
        rejected: why it cannot be used; empty = it can.
    """

    optimizer: str
    state: int
    rejected: str
    loss: float | None


@dataclass(frozen=True)
class Choice:
    """What to use, why, and everything that was considered."""

    optimizer: str
    reason: str
    candidates: tuple[Candidate, ...]


def choose_optimizer(
    shapes: Mapping[str, Sequence[int]],
    memory: int,
    found: Sequence[Score],
    itemsize: int = 4,
    embeddings: Collection[str] | None = None,
    resumable: bool = False,
) -> Choice:
    """The measured optimizer to train tensors with.

    Args:
        shapes: of the trained tensors, by name.
        memory: bytes for the optimizer's state.
        found: scores at equal tuning, AdamW's among them.
        itemsize: bytes of a parameter.
        embeddings: names of embeddings and heads; None = by the usual names.
        resumable: whether its state must go into a checkpoint.

    Raises:
        RecipeError: AdamW was not measured, or nothing that fits is supported.
        BudgetError: none fits; the smallest is named.
    """
    by_name = {each.optimizer: each for each in found}
    if BASELINE not in by_name:
        raise RecipeError("choice of an optimizer", f"{BASELINE} was not measured", f"compare with {BASELINE} too")
    usable = installed()
    candidates = []
    for name, score in by_name.items():
        needed = state_bytes(name, shapes, itemsize, embeddings).total
        why = f"needs {format_bytes(needed)}" if needed > memory else _unsupported(name, shapes, usable, resumable)
        candidates.append(Candidate(name, needed, why, score.mean))
    check_fits({each.optimizer: each.state for each in candidates}, memory)
    fitting = sorted((by_name[each.optimizer] for each in candidates if not each.rejected), key=_order)
    if not fitting:
        first = candidates[0]
        raise RecipeError("choice of an optimizer", f"{first.optimizer} {first.rejected}", "measure another one")
    best, reason = _ranked(fitting)
    return Choice(best, reason, tuple(candidates))


def check_fits(states: Mapping[str, int], memory: int) -> None:
    """Refuses a limit below the state of every optimizer.

    Raises:
        BudgetError: none fits; the smallest is named.
    """
    least = min(states, key=lambda name: states[name])
    if states[least] > memory:
        raise BudgetError(
            f"{format_bytes(memory)} for the optimizer", "is less than any of them needs",
            f"give {format_bytes(states[least])} for {least}, or train fewer tensors",
        )  # fmt: skip


def _unsupported(name: str, shapes: Mapping[str, Sequence[int]], usable: Collection[str], resumable: bool) -> str:
    facts = find_optimizer(name)
    if name not in usable:
        return "is not installed"
    if facts.matrices_only and not any(role_of(each, shape) == "matrix" for each, shape in shapes.items()):
        return "has no matrix to work on"
    if resumable and not facts.plain_state:
        return "has a state that no checkpoint can hold"
    return ""


def _ranked(fitting: Sequence[Score]) -> tuple[str, str]:
    """The best, or AdamW where it fits and the best is not clearly better."""
    best = fitting[0]
    baseline = next((each for each in fitting if each.optimizer == BASELINE), None)
    if baseline is not None and best is not baseline and best.overlaps(baseline):
        return BASELINE, f"{best.optimizer} is not clearly better: their seeds overlap"
    return best.optimizer, "the lowest loss of what fits"
