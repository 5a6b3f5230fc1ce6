"""A controlled grid: backbones x objectives x amounts of data x seeds, every cell trained alike within one budget.

Comparisons of models usually change everything at once, and nobody can say what mattered. Here each cell differs from
its neighbours in one thing; what is alike is the budget, the head, the tuning (as many learning rates for each, chosen
on rows that do not judge) and the rows. Finished cells are kept in the run's store, so an interrupted grid goes on.
`plan.attribution` says what the differences come from. After arXiv 2605.12241.
"""

from __future__ import annotations

import functools
import itertools
import signal
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

from featherweight.core.errors import RecipeError, TrainingError
from featherweight.core.lazy import torch
from featherweight.core.run import Run
from featherweight.train.cells import UNTRAINED, Cell, Domain, Trial


@dataclass(frozen=True)
class Grid:
    """What is crossed with what.

    Attributes:
        backbones, objectives: by name.
        rows: amounts of data.
        seeds: of every cell.
        rates: learning rates that each cell is tried with; one is no tuning.
    """

    backbones: tuple[str, ...]
    objectives: tuple[str, ...]
    rows: tuple[int, ...]
    seeds: int = 3
    rates: tuple[float, ...] = (3e-3,)

    def __post_init__(self) -> None:
        for name in ("backbones", "objectives", "rows", "rates"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise RecipeError(
                    f"{name} {list(values)}", "are none, or name one twice", "give each once, separated by commas"
                )
        if self.seeds < 1 or min(self.rows) < 1 or min(self.rates) <= 0:
            raise RecipeError(
                f"{self.seeds} seeds, rows {list(self.rows)}, rates {list(self.rates)}", "hold a number too low",
                "give at least one seed, one row, and rates above zero",
            )  # fmt: skip

    @property
    def cells(self) -> list[Cell]:
        """Every cell, in the order in which they are trained."""
        crossed = itertools.product(self.backbones, self.objectives, self.rows, range(self.seeds))
        return [Cell(*each) for each in crossed]

    @property
    def baselines(self) -> list[Cell]:
        """Every backbone as it is made."""
        return [Cell(name, UNTRAINED, 0, seed) for name in self.backbones for seed in range(self.seeds)]


@dataclass(frozen=True)
class Outcome:
    """A cell at the learning rate that it was judged with.

    Attributes:
        rate: the best of the grid's for this backbone, objective and amount of data; the same for all seeds.
        edge: whether it is the lowest or highest of several: its tuning is not finished.
    """

    cell: Cell
    trial: Trial
    rate: float
    edge: bool = False

    @property
    def score(self) -> float:
        """Mean over tasks."""
        return statistics.fmean(self.trial.scores.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        failed, trial = bool(self.trial.failed), self.trial.to_dict()
        del trial["rows"]  # thousands of numbers, which the store keeps
        return {
            **asdict(self.cell),
            "rate": self.rate,
            "edge": self.edge,
            "score": None if failed else self.score,
            **trial,
        }


def run_grid(grid: Grid, domain: Domain, run: Run, jobs: int = 1) -> list[Outcome]:
    """Trains what is not there yet, baselines first; one outcome a cell.

    Args:
        grid: what is crossed.
        domain: trains and judges.
        run: gives the store and the progress.
        jobs: processes that train at once, one thread each; what comes out is the same.

    Raises:
        TrainingError: nothing could be trained.
    """
    trainings = [(cell, grid.rates[0]) for cell in grid.baselines]
    trainings += [(cell, rate) for cell in grid.cells for rate in grid.rates]
    trials = dict(zip(trainings, _trials(trainings, domain, run, jobs), strict=True))
    found = [Outcome(cell, trials[cell, grid.rates[0]], grid.rates[0]) for cell in grid.baselines]
    for levels in itertools.product(grid.backbones, grid.objectives, grid.rows):
        cells = [Cell(*levels, seed) for seed in range(grid.seeds)]
        rate = max(grid.rates, key=lambda each: _worth([trials[cell, each] for cell in cells]))
        edge = len(grid.rates) > 1 and rate in (min(grid.rates), max(grid.rates))
        found += [Outcome(cell, trials[cell, rate], rate, edge) for cell in cells]
    if failed := [each for each in found if each.trial.failed]:
        run.progress.say(f"{len(failed)} of {len(found)} cells have no score; the first: {failed[0].trial.failed}")
    if all(each.trial.failed for each in found if each.cell.objective != UNTRAINED):
        raise TrainingError(
            "the grid", f"has no cell with a score: {failed[0].trial.failed}", "lower the learning rate"
        )
    return found


def _worth(trials: Sequence[Trial]) -> float:
    """Mean on the validation rows; a rate at which a seed fails is worth less than any other."""
    return -1e9 if any(each.failed for each in trials) else statistics.fmean(each.validation for each in trials)


def _trials(trainings: Sequence[tuple[Cell, float]], domain: Domain, run: Run, jobs: int) -> Iterator[Trial]:
    """Trials in the order of the trainings, each stored as soon as it is there."""
    facts = [{"domain": domain.facts(), "cell": asdict(cell), "rate": rate} for cell, rate in trainings]
    missing = [each for each, fact in zip(trainings, facts, strict=True) if not run.store.has("cell", fact)]
    workers, label = _Workers(domain, missing, jobs), "training cells"
    with _threads(domain.threads), workers, run.progress.track(label, len(missing)) as advance:
        for training, fact in zip(trainings, facts, strict=True):
            new = not run.store.has("cell", fact)
            plain = run.store.json("cell", fact, functools.partial(workers.trial, training))
            if new:
                advance()
            yield Trial.from_dict(plain)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Another number of processor threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Workers:
    """Trains here, or in processes of their own that are started ahead of what is asked for."""

    def __init__(self, domain: Domain, trainings: Sequence[tuple[Cell, float]], jobs: int) -> None:
        self.domain = domain
        self.pool: ProcessPoolExecutor | None = None
        self.waiting: dict[tuple[Cell, float], Any] = {}
        if jobs > 1 and len(trainings) > 1:
            self.pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_prepare, initargs=(domain,))
            self.waiting = {each: self.pool.submit(_trained_there, each) for each in trainings}

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def trial(self, training: tuple[Cell, float]) -> dict[str, Any]:
        """The trial of a training, in plain values."""
        waiting = self.waiting.get(training)
        trial = _trained(self.domain, training) if waiting is None else waiting.result()
        plain: dict[str, Any] = trial.to_dict()
        return plain


def _trained(domain: Domain, training: tuple[Cell, float]) -> Trial:
    """The trial of a training, whatever becomes of it."""
    try:
        return domain.train(*training)
    except TrainingError as error:
        return Trial({}, 0.0, 0, 0, 0, failed=str(error))


_domain: Domain | None = None  # of a worker process


def _prepare(domain: Domain) -> None:
    global _domain
    _domain = domain
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends what is waiting


def _trained_there(training: tuple[Cell, float]) -> Trial:
    assert _domain is not None
    return _trained(_domain, training)
