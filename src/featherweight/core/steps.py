"""Applies a recipe step by step; every finished step is kept on disk, so that none is ever done twice.

A step's result is stored as what it changed: the tensors that differ, the configuration, the planned formats. It is
found again under the hash of the model it was applied to, its fields, the calibration tokens and the seed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.checkpoint import read_entries, write_tensors
from featherweight.core.memory import peak_memory
from featherweight.core.model import Model
from featherweight.core.receipt import versions
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run, forget_spilled
from featherweight.core.store import key_of
from featherweight.core.technique import Technique
from featherweight.core.whole import whole_folder

_RECORD = "step.json"


@dataclass(frozen=True)
class Applied:
    """A step that was applied.

    Attributes:
        model: the result.
        content: what a receipt's hashed part says of it.
        volatile: wall seconds and peak memory.
        kept_as: name of the folder that keeps it; empty when it is in memory only.
    """

    model: Model
    content: Mapping[str, Any]
    volatile: Mapping[str, Any]
    kept_as: str = ""


def apply_recipe(recipe: Recipe, model: Model, run: Run, folder: Path | None) -> list[Applied]:
    """Applies all steps in order.

    Args:
        recipe: the steps.
        model: the model to start from.
        run: calibration, seed, device, progress.
        folder: where finished steps are kept; None keeps them in memory only.
    """
    done: list[Applied] = []
    for step in recipe:
        done.append(apply_step(step, done[-1].model if done else model, run, folder))
    return done


def apply_step(step: Technique, model: Model, run: Run, folder: Path | None) -> Applied:
    """Applies one step, or finds its result."""
    facts = {
        "before": model.fingerprint,
        "planned": dict(model.planned),
        "technique": step.name,
        "fields": step.fields(),
        "calibration": run.calibration.digest if run.calibration and step.needs else None,
        "seed": run.seed,
    }
    target = None if folder is None else folder / f"{step.name}-{key_of(facts)}"
    if target is not None and (target / _RECORD).is_file():
        return _read(target, model)
    run.progress.say(f"applying {step.name}")
    started = time.perf_counter()
    run.notes.clear()
    after = step.apply(model, run)
    content = {**facts, "after": after.fingerprint, "bytes": [model.nbytes, after.nbytes], "versions": versions()}
    content["formats"] = _count_formats(after)
    if run.notes:
        content["notes"] = dict(run.notes)
    volatile = {"seconds": round(time.perf_counter() - started, 2), "peak_memory": peak_memory()}
    if target is None:
        return Applied(after, content, volatile)
    _write(target, model, after, content, volatile)
    forget_spilled(run)
    return _read(target, model)


def _count_formats(model: Model) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in model.entries.values():
        counts[entry.format] = counts.get(entry.format, 0) + 1
    return dict(sorted(counts.items()))


def _write(target: Path, before: Model, after: Model, content: Mapping[str, Any], volatile: Mapping[str, Any]) -> None:
    changed = {name: entry for name, entry in after.entries.items() if before.entries.get(name) is not entry}
    record = {
        "content": content,
        "volatile": volatile,
        "config": dict(after.config),
        "planned": dict(after.planned),
        "dropped": sorted(set(before.entries) - set(after.entries)),
        "changed": sorted(changed),
    }
    with whole_folder(target) as draft:
        write_tensors(draft, changed)
        (draft / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def _read(target: Path, before: Model) -> Applied:
    record = json.loads((target / _RECORD).read_text(encoding="utf-8"))
    changed = read_entries(target) if record["changed"] else {}
    kept = {name: entry for name, entry in before.entries.items() if name not in set(record["dropped"])}
    after = Model(record["config"], {**kept, **changed}, before.folder, before.lineage, record["planned"])
    return Applied(after, record["content"], record["volatile"], target.name)


def forget_others(folder: Path, keep: Sequence[Applied]) -> None:
    """Removes the kept results of all other steps."""
    names = {applied.kept_as for applied in keep}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names and (path / _RECORD).is_file():
            shutil.rmtree(path)
