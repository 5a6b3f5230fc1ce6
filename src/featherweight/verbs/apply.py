"""apply: runs one recipe exactly, exports the result and says what it cost."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.budget import Budget
from featherweight.core.errors import FeatherweightError, RecipeError
from featherweight.core.formats import get
from featherweight.core.model import MASK, Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.core.workspace import check_free, open_workspace
from featherweight.export.exporters import exporter
from featherweight.plan.candidates import Candidate, Cut
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.goal import Goal
from featherweight.plan.planner import Plan
from featherweight.plan.search import Trial
from featherweight.plan.study import Study
from featherweight.verbs.facts import gather_facts
from featherweight.verbs.finish import finish
from featherweight.verbs.prepare import Settings, cache_folder, open_parent, read_text, token_rows


@dataclass(frozen=True)
class ApplyResult:
    """Where the result is, and what was measured of it, as written to `result.json`."""

    folder: Path
    facts: Mapping[str, Any]


def apply(
    recipe: Recipe | str | Path,
    model: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    text: str | Path | None = None,
    settings: Settings | None = None,
    resume: bool = False,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> ApplyResult:
    """Applies every step of a recipe, exports to `out/final` and measures the file.

    Args:
        recipe: a `Recipe`, or the path of one in YAML.
        model: the model to start from.
        out: the run's folder.
        format: "gguf" or "hf"; None = what the result's number formats belong to.
        text: calibration text; None = the default.
        settings: rows of text.
        resume: go on with an interrupted run.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.
    """
    started = time.perf_counter()
    settings, progress = settings or Settings(), progress or Progress()
    steps = recipe if isinstance(recipe, Recipe) else Recipe.read(Path(recipe))
    require_storable(steps, format)
    documents = read_text(text)
    folder = Path(out)
    check_free(folder, resume)
    parent = open_parent(model, cache, trust)
    rows = token_rows(parent, documents, settings, progress, cache_folder(cache), text)
    inputs = {
        "model": parent.fingerprint, "recipe": steps.digest, "format": format, "settings": settings.to_dict(),
        "text": {name: each["digest"] for name, each in rows.to_dict().items()}, "versions": versions(),
    }  # fmt: skip
    workspace = open_workspace(folder, inputs, resume)
    run = Run(
        rows.calibration, settings.seed, settings.device, parent, progress, Store(workspace.measurements),
        workspace.scratch,
    )  # fmt: skip
    size_of = exporter(format or "gguf").file_bytes
    evaluator = Evaluator(parent, run, rows.selection, settings.probe_rows, size_of, folder=workspace.steps)
    try:
        writer = exporter(format or runtime_of(evaluator.child(steps)))
    except FeatherweightError:
        if not workspace.steps.exists():  # nothing was finished that a resumed run could go on from
            shutil.rmtree(folder)
        raise
    budget = Budget(memory=1.0)
    study = Study(parent, writer, Goal(), rows.calibration, rows.selection, rows.held_out, run)
    trial = Trial(Candidate(steps, Cut(), "", 0, 0.0, 0.0), "measured", "a recipe was given", 0)
    finished = finish(study, trial, 1.0, evaluator, workspace, budget)
    plan = Plan(tokens=evaluator.tokens_spent)
    seconds = time.perf_counter() - started
    facts = gather_facts(str(model), None, study, rows, plan, finished, workspace, seconds, curve=False)
    facts |= {"met": True, "why": None}
    workspace.write(workspace.result, json.dumps(facts, indent=1))
    return ApplyResult(folder, facts)


def require_storable(recipe: Recipe, format: str | None) -> None:
    """Refuses, before anything is done, an export format that cannot hold what a step makes.

    Raises:
        RecipeError: with the name of the step.
    """
    for step in recipe if format else ():
        if step.runtimes and exporter(format or "").runtime not in step.runtimes:
            raise RecipeError(
                f"recipe step {step.name}", f"makes a model that --format {format} cannot hold",
                "use another format, or a setting of that step which gives an ordinary model",
            )  # fmt: skip


def runtime_of(model: Model) -> str:
    """The export format that can hold a model's number formats."""
    runtimes = {get(entry.format).runtime for entry in model.entries.values() if entry.format != MASK}
    return "gguf" if "gguf" in runtimes else "hf"
