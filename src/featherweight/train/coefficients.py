"""Fits the coefficients of a merge, from 1 each, and never ends worse on the validation rows than where it began.

By gradient (Adam on as many numbers as there are tasks), or by CMA-ES, which needs losses alone. The paper's abstract
says the one and its authors' blog the other; both are offered. CMA-ES is the package `cmaes`, asked and told directly:
Optuna's sampler is a wrapper of it that adds a study to keep, and falls back to random draws for one task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from featherweight.core.errors import MissingExtra
from featherweight.core.lazy import np, torch
from featherweight.core.progress import Progress
from featherweight.train.loop import Schedule, minimise
from featherweight.train.merge_objective import MergeObjective

_SPREAD = 0.3  # of CMA-ES's first draws around 1

Way = Literal["none", "gradient", "cma-es"]


@dataclass(frozen=True)
class Fitted:
    """Coefficients and what they were fitted to.

    Attributes:
        weights: one a task.
        start, end: the value of the objective at 1 each, and at the weights.
        evaluations: how often it was computed.
    """

    weights: tuple[float, ...]
    start: float
    end: float
    evaluations: int


def fit_coefficients(
    objective: MergeObjective,
    way: Way,
    start: Sequence[float],
    steps: int,
    rate: float,
    seed: int,
    progress: Progress | None = None,
) -> Fitted:
    """The best coefficients that were seen.

    Args:
        objective: of coefficients.
        way: "gradient" or "cma-es".
        start: where it begins.
        steps: updates, or generations.
        rate: Adam's learning rate.
        seed: of CMA-ES's draws.
        progress: is told of every step.

    Raises:
        MissingExtra: CMA-ES is asked for and the package `cmaes` is not installed.
    """
    best = _Best()
    first = torch.tensor(list(start), dtype=torch.float64)
    run = _by_gradient if way == "gradient" else _by_evolution
    run(objective, first, steps, rate, seed, best, progress or Progress())
    return Fitted(tuple(best.weights), best.first, best.value, best.count)


class _Best:
    """The best of what was seen."""

    def __init__(self) -> None:
        self.weights: list[float] = []
        self.value, self.first, self.count = float("inf"), float("inf"), 0

    def see(self, weights: torch.Tensor, value: float) -> None:
        self.first = value if not self.count else self.first
        self.count += 1
        if not self.weights or value < self.value:
            self.weights, self.value = weights.tolist(), value


def _by_gradient(
    objective: MergeObjective, start: torch.Tensor, steps: int, rate: float, seed: int, best: _Best, progress: Progress
) -> None:
    weights = start.clone()

    def loss(step: int) -> torch.Tensor:
        point = weights.detach().clone()
        value, slope = objective.gradient(point)
        best.see(point, value)
        line = weights @ slope
        return line - line.detach() + value

    optimizer = torch.optim.Adam([weights.requires_grad_(True)], lr=rate)
    minimise([weights], loss, Schedule(steps, rate), "fitting coefficients", progress, optimizer, clip=None)
    last = weights.detach()
    best.see(last, objective.value(last))


def _by_evolution(
    objective: MergeObjective, start: torch.Tensor, steps: int, rate: float, seed: int, best: _Best, progress: Progress
) -> None:
    try:
        from cmaes import CMA
    except ImportError:
        raise MissingExtra("fitting by cma-es", "cmaes", "merge") from None
    best.see(start, objective.value(start))
    idle = 1 if len(start) == 1 else 0  # it wants two dimensions; one of them may do nothing
    search = CMA(np.concatenate([start.numpy(), np.zeros(idle)]), _SPREAD, seed=seed)
    with progress.track("fitting coefficients", steps) as advance:
        for _ in range(steps):
            search.tell(
                [_judged(search.ask(), len(start), objective.value, best) for _ in range(search.population_size)]
            )
            advance()


def _judged(
    drawn: np.ndarray, count: int, value_of: Callable[[torch.Tensor], float], best: _Best
) -> tuple[np.ndarray, float]:
    weights = torch.from_numpy(drawn[:count].copy())
    value = value_of(weights)
    best.see(weights, value)
    return drawn, value
