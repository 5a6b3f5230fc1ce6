"""grid: which matters more, the backbone, the objective or the data? A controlled grid, before data is paid for.

    import featherweight as fw
    fw.grid()                                                        # waves of six frequencies, a few minutes
    fw.grid("beats.csv", reading=fw.Reading(labels=("rhythm",)), out="runs/beats")
    fw.grid("smollm2-135m", text="notes.txt", memory="80%")          # skeletons of a language model

Every cell is trained alike, judged by the same head and kept in the run's folder. `control=True` shuffles the samples
of every signal: what a backbone could be better at is gone then, and its share of the variance must go too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.core.budget import parse_share
from featherweight.core.errors import RecipeError
from featherweight.core.memory import peak_memory
from featherweight.core.progress import Progress
from featherweight.core.receipt import surroundings, versions
from featherweight.core.run import Run
from featherweight.core.signal_files import Reading, is_signals
from featherweight.core.source import open_model
from featherweight.core.store import Store
from featherweight.core.workspace import Workspace, check_free, open_workspace
from featherweight.models.backbone import MIXERS
from featherweight.plan.findings import Findings, findings
from featherweight.plan.grid import Grid, Outcome, run_grid
from featherweight.train.cells import Domain
from featherweight.train.head import Fitting
from featherweight.train.objectives.registry import usual_objectives
from featherweight.train.probe import Protocol
from featherweight.train.recovery import build_recoveries
from featherweight.train.sequence_cells import SequenceCells, suited
from featherweight.verbs.grid_settings import GridSettings
from featherweight.verbs.grid_text import is_text, text_rows
from featherweight.verbs.grid_worlds import amounts, open_world
from featherweight.verbs.prepare import check_device

PAGE = "report.html"


@dataclass(frozen=True)
class GridResult:
    """What a grid came to.

    Attributes:
        name: what it was trained on.
        grid: what was crossed.
        outcomes: every cell, the untrained first.
        findings: what they say.
        tasks: what was asked.
        folder: where it was written; None = nowhere.
    """

    name: str
    grid: Grid
    outcomes: tuple[Outcome, ...]
    findings: Findings
    tasks: tuple[str, ...]
    folder: Path | None

    @property
    def parameters(self) -> dict[str, int]:
        """Of every backbone; of one that is causal for some objectives only, the larger number."""
        found: dict[str, int] = {}
        for each in self.outcomes:
            name = each.cell.backbone
            found[name] = max(found.get(name, 0), each.trial.parameters)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name, "grid": asdict(self.grid), "tasks": list(self.tasks),
            "cells": [each.to_dict() for each in self.outcomes], "findings": self.findings.to_dict(),
        }  # fmt: skip


def grid(
    source: str | Path | None = None,
    *,
    settings: GridSettings | None = None,
    reading: Reading | None = None,
    text: str | Path | None = None,
    control: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    jobs: int = 1,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> GridResult:
    """Trains a grid and says what the differences come from.

    Args:
        source: a .csv, .npz or .ts file of signals, or what names a language model anywhere; None = waves.
        settings: what is crossed and how it is trained.
        reading: how a file of signals is read.
        text: for a language model; None = pydoc's prose and the standard library's code.
        control: shuffle the samples of every signal.
        out: folder for cells, result, page and receipts; None = nowhere.
        resume: go on with an interrupted grid.
        jobs: processes that train at once.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        FeatherweightError: the source, a name or a setting does not do; nothing is written then.
    """
    started = time.perf_counter()
    settings, progress = settings or GridSettings(), progress or Progress()
    check_device(settings.device)
    if jobs < 1:
        raise RecipeError(f"--jobs {jobs}", "is no number of processes", "give at least 1")
    if out is not None:
        check_free(Path(out), resume)
    elif resume:
        raise RecipeError("--resume", "needs the folder of the run", "give it with --out")
    name, crossed, domain = _opened(source, settings, reading, text, control, trust, cache, progress)
    inputs = {"grid": asdict(crossed), "domain": domain.facts(), "versions": versions()}
    workspace = None if out is None else open_workspace(Path(out), inputs, resume)
    run = Run(
        seed=settings.seed, device=settings.device, progress=progress,
        store=Store(None if workspace is None else workspace.measurements),
    )  # fmt: skip
    outcomes = run_grid(crossed, domain, run, jobs)
    found = findings(outcomes, settings.prices, settings.seed)
    result = GridResult(
        name, crossed, tuple(outcomes), found, tuple(domain.tasks), None if workspace is None else workspace.folder
    )
    if workspace is not None:
        _write(result, workspace, inputs, time.perf_counter() - started)
    return result


def _opened(
    source: str | Path | None, settings: GridSettings, reading: Reading | None, text: str | Path | None, control: bool,
    trust: bool, cache: Path | None, progress: Progress,
) -> tuple[str, Grid, Domain]:  # fmt: skip
    """The name, the grid and the domain of a source."""
    signals = source is None or is_signals(str(source))
    if not signals and (control or reading is not None):
        raise RecipeError(
            f"{source} with options of signals", "is no file of signals", "leave them out, or give .csv, .npz or .ts"
        )
    if signals or is_text(str(source)):
        if text is not None:
            raise RecipeError(f"--text {text}", "needs a language model to read it", "name the model, or leave it out")
        return _of_sequences(source, settings, reading or Reading(), control)
    return _of_students(str(source), settings, text, trust, cache, progress)


def _of_sequences(
    source: str | Path | None, settings: GridSettings, reading: Reading, control: bool
) -> tuple[str, Grid, Domain]:
    """Backbones that are trained from nothing."""
    steps, rows = (150, settings.rows or ("300", "6000")) if source is None else (250, settings.rows)
    fitting = settings.fitting(Fitting(steps, 3e-3, 1e-3, 64))
    world = open_world(source, reading, settings.length, settings.seed, control)
    design = settings.design or suited(world)
    known = usual_objectives(settings.objectives, settings.fields, world.positions(design), bool(world.tokens))
    backbones = settings.backbones or tuple(MIXERS)
    crossed = Grid(
        backbones, tuple(known), amounts(rows, len(world.inputs), fitting.batch), settings.seeds,
        settings.tried(fitting.learning_rate),
    )  # fmt: skip
    protocol = Protocol(settings.head, settings.labels or (2000 if world.tokens else 300),
                        pool="last" if world.tokens else "mean")  # fmt: skip
    domain = SequenceCells(
        world, backbones, known, design, fitting, protocol, settings.flops, settings.device
    )  # fmt: skip
    domain.check()
    return world.name, crossed, domain


def _of_students(
    source: str, settings: GridSettings, text: str | Path | None, trust: bool, cache: Path | None, progress: Progress
) -> tuple[str, Grid, Domain]:
    """Skeletons of a language model."""
    from featherweight.plan.skeletons import NAMES, check_names, skeletons
    from featherweight.plan.student_cells import StudentCells

    if settings.head != "linear" or settings.labels is not None:
        raise RecipeError("--head or --labels", "are of signals: a language model keeps its head", "leave them out")
    fitting, share = settings.fitting(Fitting(20, 5e-5, 0.0, 4)), parse_share(settings.memory, "memory", "80%")
    known, names = build_recoveries(settings.objectives, settings.fields), check_names(settings.backbones or NAMES)
    rows = amounts(settings.rows or ("16", "64"), None, fitting.batch)
    crossed = Grid(names, tuple(known), rows, settings.seeds, settings.tried(fitting.learning_rate))
    model = open_model(source, cache, trust)
    tokens = text_rows(text, model.tokenizer, max(rows), settings.judged, settings.length)
    run = Run(tokens["calibration"], settings.seed, settings.device, model, progress)
    made = skeletons(model, names, share, run)
    return source, crossed, StudentCells(model, made, known, tokens, fitting, settings.flops, settings.device)


def _write(result: GridResult, workspace: Workspace, inputs: Mapping[str, Any], seconds: float) -> None:
    """Receipts, result and page."""
    from featherweight.report.grid_page import render

    ledger = workspace.ledger()
    start = ledger.append_once({"step": "grid", **inputs})
    for each in result.outcomes:
        ledger.append_once({"step": "cell", "inputs": start.digest, **each.to_dict()})
    said = ledger.append_once({"step": "findings", **result.findings.to_dict()}, {"seconds": round(seconds, 1)})
    facts = {
        "kind": "grid", **result.to_dict(), "receipts": {"count": len(ledger), "head": said.digest},
        "environment": {**versions(), **surroundings()},
        "cost": {"seconds": round(seconds, 1), "peak_memory": peak_memory()},
    }  # fmt: skip
    workspace.write(workspace.result, json.dumps(facts, indent=1) + "\n")
    workspace.write(workspace.folder / PAGE, render(facts))
