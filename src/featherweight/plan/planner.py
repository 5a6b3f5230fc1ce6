"""The planner: sizes worth trying, candidates at each, refinement around the best, orders of the steps that cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.errors import BudgetError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build
from featherweight.plan.candidates import Candidate, candidates, rounded_first
from featherweight.plan.curve import Curve
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.order import Ordering, OrderPair, order_steps
from featherweight.plan.refine import refine
from featherweight.plan.search import Search, Trial
from featherweight.plan.study import Study

_ORDER_ROWS = 8  # of calibration


@dataclass
class Plan:
    """What the planner did.

    Attributes:
        trials: every candidate that was considered, measured or rejected, in order.
        ordering: the steps of the likeliest recipe that cuts, alone and in both orders; None where none was measured.
        tokens: child tokens that were run.
        search: what a joint or sequential search came to; None where the planner chose by itself.
    """

    trials: list[Trial] = field(default_factory=list)
    ordering: Ordering | None = None
    tokens: int = 0
    search: Mapping[str, Any] | None = None

    @property
    def orders(self) -> Sequence[OrderPair]:
        """Pairs of steps in both orders."""
        return self.ordering.pairs if self.ordering is not None else ()


def make_plan(study: Study, evaluator: Evaluator, trials: int, storage: Path | None, measure: bool = True) -> Plan:
    """Tries candidates for a study's goal.

    Args:
        study: the parent and its goal.
        evaluator: applies and measures recipes.
        trials: variations to try around the best candidate.
        storage: where Optuna keeps its study.
        measure: False runs only the single best expected candidate: what is known from an earlier run decides.
    """
    search = Search(evaluator)
    plan = Plan(search.trials)
    sizes = study.sizes()
    found = candidates(study.prior, sizes[:1])
    if not measure:
        if found:
            search.attempt(found[0])
        return plan
    best = search.climb(found)
    if best is not None and trials:
        _refine(search, best, trials, study.run.seed, storage)
    for size in sizes[1:]:
        smaller = candidates(study.prior, [size])
        # Where the goal is met already, a smaller size only widens the frontier: its likeliest candidate does that.
        search.climb(smaller[:1] if _meets(study, best) else smaller)
    cutting = _cutting(best, found)
    if cutting is not None:
        plan.ordering = measure_orders(study, evaluator, cutting)
        rounding_first = plan.ordering.best[0] == len(cutting.cut.steps())
        if best is not None and cutting is best.candidate and rounding_first:
            swapped = rounded_first(study.prior, cutting)
            if swapped is not None:
                search.attempt(swapped, best)
    plan.tokens = evaluator.tokens_spent
    return plan


def _meets(study: Study, trial: Trial | None) -> bool:
    measured = None if trial is None else trial.measured()
    return measured is not None and not study.goal.without("resident").misses(measured)


def _refine(search: Search, best: Trial, trials: int, seed: int, storage: Path | None) -> None:
    def damage(candidate: Candidate) -> float:
        if not any(trial.candidate.recipe == candidate.recipe for trial in search.trials):
            search.vary(candidate, best)
        return float(search.evaluator.first_look(candidate.recipe).kl.mean())

    for candidate in refine(best.candidate, trials, damage, seed, storage):
        damage(candidate)  # of an interrupted run's finished trial too: its scores are in the store


def _cutting(best: Trial | None, found: Sequence[Candidate]) -> Candidate | None:
    """The candidate whose order of steps is worth measuring: the best one if it cuts, or the likeliest that does."""
    if best is not None and best.candidate.cut.steps():
        return best.candidate
    return min((each for each in found if each.cut.steps()), key=lambda each: each.kl, default=None)


def measure_orders(study: Study, evaluator: Evaluator, candidate: Candidate) -> Ordering:
    """The orders of cutting and rounding for a candidate that does both, at a fraction of the cost of a full trial."""
    curve = Curve.of(study.prior.tables["nearest"], bits_by_format(study.parent, study.prior.tables["nearest"]))
    return explain_order(study, evaluator, _cut_and_rounded(candidate), curve)


def likeliest_cut(study: Study) -> Recipe:
    """Cutting and rounding to nearest, of the likeliest candidate that cuts.

    Raises:
        BudgetError: no candidate that cuts meets the goal.
    """
    cutting = _cutting(None, candidates(study.prior, study.sizes()[:1]))
    if cutting is None:
        raise BudgetError("--explain-order", "no recipe with two steps meets the budget", "give --recipe FILE")
    return _cut_and_rounded(cutting)


def _cut_and_rounded(candidate: Candidate) -> Recipe:
    """Its cuts, then rounding to nearest in the format that takes most of its bytes."""
    main = max(candidate.formats, key=lambda kind: (candidate.formats[kind], kind))
    return Recipe((*candidate.cut.steps(), _rounding_to(main if main != "BF16" else "Q8_0")))


def explain_order(
    study: Study, evaluator: Evaluator, recipe: Recipe, curve: Curve | None = None, verify: bool | None = None
) -> Ordering:
    """What is to be said of the order of a recipe's steps, from few rows of calibration and of the first look.

    Args:
        study: parent, text.
        evaluator: applies and measures recipes; what it is asked again it has kept.
        recipe: the steps.
        curve: loss of rounding alone; None = measured here.
        verify: whether orders are measured; None = up to three steps.
    """
    few = dataclasses.replace(study.run, calibration=study.calibration.spread(_ORDER_ROWS))
    cheap = dataclasses.replace(evaluator, run=few, probe=max(3, evaluator.probe // 2), tokens_spent=0)
    parent_nll = float(cheap.first_look(Recipe(())).parent_nll.mean())

    def measure(each: Recipe) -> float:
        study.run.progress.say(f"measuring {each}")
        return float(cheap.first_look(each).child_nll.mean())

    found = order_steps(recipe, parent_nll, measure, curve or Curve.measured(study.parent, parent_nll, measure), verify)
    evaluator.tokens_spent += cheap.tokens_spent
    return found


def _rounding_to(kind: str) -> Technique:
    embedding = kind if get(kind).runtime == "gguf" else "keep"
    return build("rtn", {"format": kind, "embedding": embedding})


def bits_by_format(model: Model, table: dict[str, dict[str, float]]) -> dict[str, float]:
    """Bits a weight of every format that all tensors of a table can take."""
    kinds = set.intersection(*(set(row) for row in table.values())) if table else set()
    sizes = {name: model.entries[name].shape for name in table}
    weights = sum(rows * columns for rows, columns in sizes.values())
    return {
        kind: 8 * sum(get(kind).tensor_bytes(shape) for shape in sizes.values()) / weights for kind in sorted(kinds)
    }
