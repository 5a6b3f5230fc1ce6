"""adapt: trains an adapter on a person's data and keeps it beside the model, as a folder that stock PEFT loads.

    import featherweight as fw
    fw.adapt("smollm2-135m", "chats.jsonl", "runs/support", method="lora", fields={"rank": 32})

A tenth of the samples is held out by its hash. What the adapter brings is measured there, what it costs on text that
has nothing to do with the data: divergence from the base and agreement with it. A training that is killed goes on from
its last kept state with `resume`, to the same adapter. Any technique that derives from `AdapterTechnique` will do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.budget import parse_bytes
from featherweight.core.errors import RecipeError, nearest
from featherweight.core.memory import forget_peak, peak_memory
from featherweight.core.model import Model
from featherweight.core.packing import PackedRows
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.core.samples import read_samples, split_samples
from featherweight.core.store import key_of
from featherweight.core.technique import build, find, techniques
from featherweight.core.workspace import Workspace, check_free, numbered, open_workspace
from featherweight.train.adapter_technique import AdapterTechnique
from featherweight.train.fitted import evaluating, fitted, shape_of
from featherweight.train.held_out import example_losses, mean_loss
from featherweight.train.memory import MemoryPlan, plan_memory
from featherweight.train.memory_terms import EXACT
from featherweight.train.processes import Processes
from featherweight.train.trainer import Hooks, Kept
from featherweight.verbs.adapter_output import Task, Trained, forgetting_text, measure, publish
from featherweight.verbs.adapter_place import placed
from featherweight.verbs.prepare import check_device, open_parent

STATE = "training.pt"
_LOOKS = 4  # at the held-out rows on the way


@dataclass(frozen=True)
class AdaptResult:
    """Where the adapter is, and what was measured of it, as written to `result.json`."""

    folder: Path
    facts: Mapping[str, Any]


def adapt(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    method: str = "lora",
    fields: Mapping[str, Any] | None = None,
    place: str | None = None,
    held_out: float = 0.1,
    other_rows: int = 24,
    memory: str | int | None = None,
    base_formats: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    trust: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> AdaptResult:
    """Trains an adapter and measures it.

    Args:
        model: the base, which is not changed.
        data: a .jsonl file of chats, prompts with completions or texts, or a text.
        out: the folder of the run and of the adapter; None = runs/<data>-<method>, numbered where it exists.
        method: a technique that trains adapters: lora, matryoshka-lora, ...
        fields: of that technique.
        place: "auto" probes the linears first and adapts one, the best (`verbs.adapter_place`); None = `fields` decide.
        held_out: share of the samples that the result is judged on.
        other_rows: rows of other text, 256 tokens each, on which the adapted model is compared with the base.
        memory: most that this process may have resident while it trains, or its tensors on a GPU, such as "2GB";
            None = no limit.
        base_formats: formats to which the frozen base may be rounded if it does not fit otherwise.
        seed: of every random choice.
        device: "cpu" or "cuda".
        resume: go on with an interrupted run.
        trust: allow pickled weights.
        cache: where converted models are kept.
        progress: shows what is going on.

    Raises:
        FeatherweightError: the model, the data or a field does not do; nothing was written.
    """
    started = time.perf_counter()
    technique, processes = adapter_technique(method, {**(fields or {}), "data": str(data)}), Processes()
    limit = None if memory is None else parse_bytes(memory, "memory")
    check_device(device)
    if other_rows < 2:
        raise RecipeError(f"other_rows {other_rows}", "give no interval", "ask for at least 2")
    folder = _folder(out, data, technique.name, resume or processes.several)
    if processes.index == 0:
        check_free(folder, resume)
    samples = split_samples(read_samples(data), _share(held_out), seed)
    base = open_parent(model, cache, trust)
    run = Run(seed=seed, device=device, parent=base, progress=progress or Progress())
    technique, placement = placed(technique, place, base, samples[0], run)
    training, judged = (technique.packed(each, base, run) for each in samples)
    task = Task(str(model), base, technique, training, judged, run)
    plan = planned(task, limit, base_formats)
    # Refuses, before anything is written, what the model cannot have.
    with fitted(technique, base, run, plan, folder.parent) as adapted:
        inputs = {**task.inputs(), **_base_of(plan), "held_out": held_out, "versions": versions()}
        workspace = open_workspace(folder, inputs, resume) if processes.index == 0 else Workspace(folder)
        if out is None:
            run.progress.say(f"the run is in {folder}")
        if resume and workspace.result.is_file():
            return AdaptResult(folder, json.loads(workspace.result.read_text(encoding="utf-8")))
        with evaluating(plan):
            before = example_losses(adapted, task.held_out, device, task.tokens)
        kept = Kept(workspace.folder / STATE, resume=resume, facts={"run": key_of(inputs)})
        trained = _train(task, adapted, kept, plan)
        if processes.index:  # another process measures and writes
            return AdaptResult(workspace.folder, {})
        with evaluating(plan):
            measured = measure(task, adapted, before, forgetting_text(base, seed, other_rows))
            facts = publish(task, adapted, trained, measured, inputs, workspace)
    facts |= {"placement": placement} if placement else {}
    facts["cost"]["seconds"] = round(time.perf_counter() - started, 1)
    workspace.write(workspace.result, json.dumps(facts, indent=1))
    (folder / STATE).unlink(missing_ok=True)
    return AdaptResult(workspace.folder, facts)


def _folder(out: str | Path | None, data: str | Path, method: str, named: bool) -> Path:
    if out is not None:
        return Path(out)
    if named:
        raise RecipeError("--out", "is missing", "name the folder: that of the run to resume, or one for all processes")
    return numbered(Path("runs") / f"{Path(data).stem}-{method}")


def _base_of(plan: MemoryPlan | None) -> dict[str, str]:
    """The rounding of the base, where it is rounded: then another model is adapted."""
    return {} if plan is None or plan.levers.base in EXACT else {"base": plan.levers.base}


def plan_adapt(
    model: str | Path,
    data: str | Path,
    *,
    method: str = "lora",
    fields: Mapping[str, Any] | None = None,
    memory: str | int | None = None,
    base_formats: Sequence[str] = (),
    place: str | None = None,
    device: str = "cpu",
    trust: bool = False,
    cache: Path | None = None,
) -> MemoryPlan:
    """What a training would take in memory, term by term, and what would lower it; nothing is trained or written.

    Args:
        model: the base.
        data: as of `adapt`.
        method: as of `adapt`.
        fields: of that technique.
        memory: most that this process may have resident, or its tensors on a GPU; None = no limit.
        base_formats: formats to which the frozen base may be rounded if it does not fit otherwise.
        place: as of `adapt`; "auto" runs the probe.
        device: "cpu" or "cuda".
        trust: allow pickled weights.
        cache: where converted models are kept.

    Raises:
        FeatherweightError: the model, the data or a field does not do, or nothing fits the limit.
    """
    limit = None if memory is None else parse_bytes(memory, "memory")
    check_device(device)
    technique = adapter_technique(method, {**(fields or {}), "data": str(data)})
    base, run = open_parent(model, cache, trust), Run(device=device)
    samples = read_samples(data)
    technique, _ = placed(technique, place, base, samples, run)
    return _plan(base, technique, technique.packed(samples, base, run), limit, base_formats, device)


def _plan(
    base: Model, technique: AdapterTechnique, rows: PackedRows, limit: int | None, formats: Sequence[str], device: str
) -> MemoryPlan:
    dtype = technique.compute_dtype(device)
    return plan_memory(base, technique, shape_of(technique, rows), limit, formats, device, dtype)


def planned(task: Task, limit: int | None, base_formats: Sequence[str]) -> MemoryPlan | None:
    """The plan for a limit; None where there is none.

    Raises:
        BudgetError: nothing fits.
    """
    if limit is None:
        return None
    return _plan(task.base, task.technique, task.rows, limit, base_formats, task.run.device)


def _train(task: Task, adapted: Any, kept: Kept, plan: MemoryPlan | None) -> Trained:
    """Trains, with a few looks at the held-out rows on the way."""
    started = time.perf_counter()
    steps = task.technique.pace(task.rows).schedule.steps

    def look() -> float:
        with evaluating(plan):
            return mean_loss(adapted, task.held_out, task.run.device, task.tokens)

    hooks = Hooks(
        watch=look,
        watch_at=frozenset(round(steps * number / _LOOKS) for number in range(1, _LOOKS)),
    )
    device = task.run.device
    known = forget_peak(device) if plan is not None else False
    course = task.technique.train(adapted, task.rows, task.run, hooks, kept)
    memory = None if plan is None else plan.receipt(peak_memory(device) if known else None)
    return Trained(course, time.perf_counter() - started, memory)


def _share(held_out: float) -> float:
    if not 0 < held_out < 1:
        raise RecipeError(f"held_out {held_out:g}", "is no share", "give one between 0 and 1, such as 0.1")
    return held_out


def adapter_technique(method: str, fields: Mapping[str, Any]) -> AdapterTechnique:
    """The technique called `method` with these fields.

    Raises:
        RecipeError: there is none of that name, or it trains no adapter.
    """
    usable = [name for name, cls in techniques().items() if issubclass(cls, AdapterTechnique)]
    if method.replace("_", "-") not in usable:
        hint = nearest(method, usable) or f"use {' or '.join(usable)}"
        raise RecipeError(f"method {method!r}", "trains no adapter", hint)
    found = build(find(method).name, dict(fields))
    assert isinstance(found, AdapterTechnique)
    return found
