"""plan: what fit would try and why, without running any of it; or why steps come in which order. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.core.budget import Budget
from featherweight.core.errors import BudgetError, RecipeError
from featherweight.core.progress import Progress
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.core.workspace import measurements_of
from featherweight.export.exporters import exporter
from featherweight.plan.candidates import Candidate, candidates
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.goal import Goal
from featherweight.plan.order import Ordering
from featherweight.plan.planner import explain_order as measured_order
from featherweight.plan.planner import likeliest_cut
from featherweight.plan.search import Doubt
from featherweight.plan.study import Study, bf16_file_bytes
from featherweight.verbs.prepare import (
    Settings,
    cache_folder,
    open_parent,
    open_study,
    read_text,
    require_stock,
    token_rows,
)


@dataclass(frozen=True)
class Outlook:
    """What is expected before anything is run.

    Attributes:
        study: the parent, the goal and the priors.
        candidates: recipes with expected damage, best first.
        curve: the expected frontier.
    """

    study: Study
    candidates: Sequence[Candidate]
    curve: Sequence[Candidate]

    def would_run(self, candidate: Candidate) -> bool:
        """Whether fit would try it if the first candidate turned out as expected."""
        best = self.candidates[0]
        return candidate is best or Doubt().least(candidate) < best.kl


def plan(
    model: str | Path,
    budget: Budget,
    *,
    format: str = "gguf",
    text: str | Path | None = None,
    settings: Settings | None = None,
    reuse: str | Path | None = None,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Outlook:
    """Candidates, their expected cost and the order in which fit would try them; see `fit` for the arguments."""
    study = _study(model, budget, format, text, settings or Settings(), reuse, trust, cache, progress or Progress())
    return Outlook(study, candidates(study.prior, study.sizes()[:1]), study.curve)


def explain_order(
    model: str | Path,
    recipe: Recipe | str | Path | None = None,
    budget: Budget | None = None,
    *,
    format: str = "gguf",
    text: str | Path | None = None,
    settings: Settings | None = None,
    reuse: str | Path | None = None,
    verify: bool | None = None,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Ordering:
    """Measures the steps of a recipe alone and, if they are few or `verify` says so, in several orders, on few rows.

    The recipe is a `Recipe`, the path of one in YAML, or None: then the likeliest one that cuts and rounds for the
    budget. See `fit` for the other arguments.
    """
    settings = settings or Settings()
    steps = recipe if recipe is None or isinstance(recipe, Recipe) else Recipe.read(Path(recipe))
    if steps is None and budget is None:
        raise BudgetError("--explain-order", "has neither a recipe nor a budget", "give --recipe FILE or --memory SIZE")
    if steps is not None and not len(steps):
        raise RecipeError(f"recipe {recipe}", "has no steps to order", "name at least one")
    limits = budget or Budget(memory=1.0)
    study = _study(model, limits, format, text, settings, reuse, trust, cache, progress or Progress())
    evaluator = Evaluator(study.parent, study.run, study.selection, settings.probe_rows, study.exporter.file_bytes)
    return measured_order(study, evaluator, steps if steps is not None else likeliest_cut(study), verify=verify)


def _study(
    model: str | Path, budget: Budget, format: str, text: str | Path | None, settings: Settings,
    reuse: str | Path | None, trust: bool, cache: Path | None, progress: Progress,
) -> Study:  # fmt: skip
    writer = exporter(format)
    documents = read_text(text)
    parent = open_parent(model, cache, trust)
    require_stock(parent)
    others = [measurements_of(Path(reuse), parent.fingerprint)] if reuse is not None else []
    goal = Goal.of(budget, bf16_file_bytes(parent, writer))
    rows = token_rows(parent, documents, settings, progress, cache_folder(cache), text)
    run = Run(rows.calibration, settings.seed, settings.device, parent, progress, Store(None, others))
    return open_study(parent, writer, goal, rows, run, budget)
