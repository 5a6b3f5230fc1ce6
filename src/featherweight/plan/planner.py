"""The planner: sizes worth trying, candidates at each, refinement around the best, orders of the steps that cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build
from featherweight.plan.candidates import Candidate, candidates, rounded_first
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.order import Curve, OrderPair, compare_orders
from featherweight.plan.refine import refine
from featherweight.plan.search import Search, Trial
from featherweight.plan.study import Study

_ORDER_ROWS = 8  # of calibration


@dataclass
class Plan:
    """What the planner did.

    Attributes:
        trials: every candidate that was considered, measured or rejected, in order.
        orders: pairs of steps in both orders.
        tokens: child tokens that were run.
    """

    trials: list[Trial] = field(default_factory=list)
    orders: list[OrderPair] = field(default_factory=list)
    tokens: int = 0


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
        plan.orders = [measure_orders(study, evaluator, cutting)]
        if best is not None and cutting is best.candidate and plan.orders[0].earlier != cutting.recipe.steps[0].name:
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


def measure_orders(study: Study, evaluator: Evaluator, candidate: Candidate) -> OrderPair:
    """Both orders of cutting and rounding for a candidate that does both.

    Rounding is to nearest, in the format that takes most of the candidate's bytes; few rows are read: enough to tell
    the orders apart, at a fraction of the cost of a full trial.
    """
    cut = candidate.cut.steps()[0]
    main = max(candidate.formats, key=lambda kind: (candidate.formats[kind], kind))
    rounding = _rounding_to(main if main != "BF16" else "Q8_0")
    few = dataclasses.replace(study.run, calibration=study.calibration.spread(_ORDER_ROWS))
    cheap = dataclasses.replace(evaluator, run=few, probe=max(3, evaluator.probe // 2), tokens_spent=0)
    untouched = cheap.first_look(Recipe(()))

    def loss(recipe: Recipe) -> float:
        return float(cheap.first_look(recipe).child_nll.mean())

    study.run.progress.say(f"comparing the orders of {cut.name} and {rounding.name}")
    curve = Curve.of(study.prior.tables["nearest"], bits_by_format(study.parent, study.prior.tables["nearest"]))
    pair = compare_orders(cut, rounding, float(untouched.parent_nll.mean()), loss, curve)
    evaluator.tokens_spent += cheap.tokens_spent
    return pair


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
