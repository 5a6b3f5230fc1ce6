"""fit: a model and a budget in, a model that meets it out, with receipts, an exported file and a report."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.budget import Budget
from featherweight.core.errors import BudgetError, SearchError
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.core.steps import forget_others
from featherweight.core.store import Store
from featherweight.core.workspace import Workspace, check_free, measurements_of, numbered, open_workspace
from featherweight.export.exporters import exporter
from featherweight.measure.quality import compare_once, summarize
from featherweight.measure.tasks import check_tasks, run_tasks
from featherweight.plan.choose import explain_infeasible, ranked
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.exporter import Exporter
from featherweight.plan.goal import Goal
from featherweight.plan.healing import Healing, heal_best
from featherweight.plan.joint_plan import FIT_TURNS, check_space, make_searched_plan
from featherweight.plan.joint_search import Effort
from featherweight.plan.planner import Plan, make_plan
from featherweight.plan.study import Study, bf16_file_bytes
from featherweight.verbs.facts import gather_facts
from featherweight.verbs.finish import Finished, finish
from featherweight.verbs.prepare import (
    Rows,
    Settings,
    cache_folder,
    open_parent,
    open_study,
    read_text,
    require_stock,
    token_rows,
)
from featherweight.verbs.rehearse import rehearse
from featherweight.verbs.timing import decode_seconds

_REHEARSED = 0.02  # minutes of healing that show whether it goes through
_ATTEMPTS = 3  # candidates that may be exported before a budget is called unmet


@dataclass(frozen=True)
class FitResult:
    """What a fit came to.

    Attributes:
        met: whether every limit was met, measured on the exported file.
        folder: the run's folder; `folder / "final"` is the model where one was made.
        facts: everything that the report shows, as written to `result.json`.
    """

    met: bool
    folder: Path
    facts: Mapping[str, Any]


def fit(
    model: str | Path,
    budget: Budget,
    out: str | Path | None = None,
    *,
    format: str = "gguf",
    text: str | Path | None = None,
    settings: Settings | None = None,
    reuse: str | Path | None = None,
    resume: bool = False,
    rehearsal: bool = False,
    tasks: Sequence[str] = (),
    heal: float = 0.0,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Finds, makes, exports and measures a smaller model that meets a budget.

    Args:
        model: a Hugging Face folder, a .gguf file, "smollm2-135m" or a hub name.
        budget: the limits.
        out: the run's folder; None = runs/<model>-<budget>.
        format: "gguf" (llama.cpp) or "hf" (Hugging Face folder, compressed-tensors).
        text: a .txt or .jsonl file, or "hf:DATASET"; None = prose, code and chat that are at hand.
        settings: how much is spent on deciding.
        reuse: an earlier run whose measurements are taken over; the new budget is then solved without new ones.
        resume: go on with an interrupted run in `out`.
        rehearsal: first run everything on a two-block random model of the same architecture.
        tasks: lm-evaluation-harness tasks to run on the exported file and on the parent.
        heal: minutes to train the best candidate for, inside its bytes; the better of the two is exported.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        FeatherweightError: a bad input; nothing was written.
    """
    started = time.perf_counter()
    settings, progress = settings or Settings(), progress or Progress()
    writer = exporter(format)
    check_tasks(tasks)
    check_minutes(heal)
    documents = read_text(text)
    folder = Path(out) if out is not None else default_folder(str(model), budget)
    check_free(folder, resume)
    parent = open_parent(model, cache, trust)
    require_stock(parent)
    others = [measurements_of(Path(reuse), parent.fingerprint)] if reuse is not None else []
    goal = Goal.of(budget, bf16_file_bytes(parent, writer))
    rows = token_rows(parent, documents, settings, progress, cache_folder(cache), text)
    _check_search(settings, parent, writer, goal, rows)
    if rehearsal:
        rehearse(functools.partial(fit, heal=min(heal, _REHEARSED)), parent, format, text, settings, progress)
    inputs: dict[str, Any] = {
        "model": parent.fingerprint, "budget": budget.model_dump(), "format": format, "settings": settings.to_dict(),
        "text": {name: each["digest"] for name, each in rows.to_dict().items()}, "versions": versions(),
    }  # fmt: skip
    inputs |= {"heal": heal} if heal else {}
    workspace = open_workspace(folder, inputs, resume)
    run = _run(rows, settings, progress, workspace, parent, others)
    study = open_study(parent, writer, goal, rows, run, budget)
    evaluator = _evaluator(study, settings, workspace, budget)
    plan = _plan(study, evaluator, settings, workspace, reuse is None)
    healing = heal_best(study, evaluator, plan, heal) if heal else None
    finished = _finish_best(study, plan, evaluator, workspace, budget)
    met = finished is not None and not finished.missed
    seconds = time.perf_counter() - started
    facts = gather_facts(str(model), budget, study, rows, plan, finished, workspace, seconds, plan.search is None)
    facts["search"] = plan.search
    facts["tasks"] = _tasks(parent, finished, tasks, workspace.scratch)
    facts |= {"met": met, "why": None if met else explain_infeasible(study, plan.trials)}
    if healing is not None:
        facts["healing"] = {"minutes": heal, **healing.to_dict(), "held-out": _held_out(study, evaluator, healing)}
    workspace.write(workspace.result, json.dumps(facts, indent=1))
    # What was measured stays; of the models that were tried, only the chosen one takes space.
    forget_others(workspace.steps, evaluator.steps(finished.trial.candidate.recipe) if finished else [])
    return FitResult(met, folder, facts)


def _check_search(settings: Settings, parent: Model, writer: Exporter, goal: Goal, rows: Rows) -> None:
    """Refuses a space to search before anything is written."""
    if settings.search == "planner" and settings.search_space:
        raise SearchError("--space", "says what to search, and --search is planner", "add --search joint")
    if settings.search != "planner":
        study = Study(parent, writer, goal, rows.calibration, rows.selection, rows.held_out, Run())
        check_space(study, settings.search_space)


def _plan(study: Study, evaluator: Evaluator, settings: Settings, workspace: Workspace, measure: bool) -> Plan:
    if settings.search == "planner":
        return make_plan(study, evaluator, settings.trials, workspace.study, measure)
    turns = dataclasses.replace(FIT_TURNS, rounds=settings.search_rounds)
    return make_searched_plan(study, evaluator, settings.search, Effort(turns), settings.search_space)


def _tasks(parent: Model, finished: Finished | None, tasks: Sequence[str], scratch: Path) -> list[dict[str, Any]]:
    if finished is None or not tasks:
        return []
    return [score.__dict__ for score in run_tasks(parent, open_model(finished.path, scratch), tasks)]


def check_minutes(heal: float) -> None:
    """Refuses a time to heal that is none."""
    if not 0 <= heal < math.inf:
        raise BudgetError(f"--heal {heal:g}", "is no number of minutes", "give minutes such as 5, or leave it out")


def _held_out(study: Study, evaluator: Evaluator, healing: Healing) -> dict[str, Any]:
    """Quality without and with healing on the rows that nothing was chosen by."""
    found = {}
    for name, trial in (("plain", healing.plain), ("healed", healing.healed)):
        child = evaluator.child(trial.candidate.recipe)
        found[name] = summarize(compare_once(study.parent, child, study.held_out, study.run)).to_dict()
    return found


def default_folder(model: str, budget: Budget) -> Path:
    """runs/<model>-<first limit>, numbered when it exists."""
    size = next((str(limit) for limit in (budget.memory, budget.quality, budget.latency, budget.resident) if limit), "")
    return numbered(Path("runs") / f"{Path(model).stem}-{size}")


def _run(
    rows: Rows, settings: Settings, progress: Progress, workspace: Workspace, parent: Model, others: Sequence[Path]
) -> Run:
    return Run(
        calibration=rows.calibration,
        seed=settings.seed,
        device=settings.device,
        parent=parent,
        progress=progress,
        store=Store(workspace.measurements, others),
        scratch=workspace.scratch,
    )


def _evaluator(study: Study, settings: Settings, workspace: Workspace, budget: Budget) -> Evaluator:
    return Evaluator(
        study.parent,
        study.run,
        study.selection,
        settings.probe_rows,
        study.exporter.file_bytes,
        (lambda model: decode_seconds(model, study.exporter, study.run, budget)) if study.goal.latency else None,
        budget.threads,
        workspace.steps,
    )


def _finish_best(
    study: Study, plan: Plan, evaluator: Evaluator, workspace: Workspace, budget: Budget
) -> Finished | None:
    """Exports the best-ranked candidates until one meets every limit on the file itself."""
    finished: Finished | None = None
    for trial, closeness in ranked(plan.trials, study.goal, study.parent_bytes)[:_ATTEMPTS]:
        study.run.progress.say(f"making {trial.candidate.recipe}")
        finished = finish(study, trial, closeness, evaluator, workspace, budget, plan.ordering)
        if not finished.missed:
            return finished
    return finished
