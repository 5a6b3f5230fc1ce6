"""Benchmark tasks of lm-evaluation-harness on two models, and one task that needs no download.

`python-docs` asks, for the first sentence of a standard library function's documentation, which of four functions it
describes. Questions are made at run time from the Python that runs; nothing is shipped. Needs the extra `eval`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featherweight.core.errors import DataError, MissingExtra, nearest
from featherweight.core.model import Model

LOCAL = "python-docs"
_MODULES = (
    "builtins", "math", "os", "os.path", "shutil", "random", "statistics", "textwrap", "json", "time", "calendar",
    "itertools", "functools", "glob", "fnmatch", "heapq", "bisect", "copy", "string", "base64", "struct", "inspect",
)  # fmt: skip
_OPTIONS = 4


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task for a parent and its child.

    Attributes:
        parent_error, child_error: standard errors, as the harness reports them.
        items: questions asked.
    """

    task: str
    metric: str
    parent: float
    parent_error: float
    child: float
    child_error: float
    items: int


def run_tasks(parent: Model, child: Model, tasks: Sequence[str], limit: int | None = None) -> list[TaskScore]:
    """Runs tasks on both models in float32.

    Args:
        parent: the model to compare with.
        child: the model to judge; rounded formats are read back exactly.
        tasks: names as the harness knows them, or "python-docs".
        limit: questions a task; None = all.

    Raises:
        MissingExtra: lm-eval is not installed; DataError: a task is unknown.
    """
    parent_found, child_found = evaluated([parent, child], tasks, limit)
    return _paired(parent_found, child_found)


def evaluated(
    models: Sequence[Model], tasks: Sequence[str], limit: int | None = None, items: bool = False
) -> list[Mapping[str, Any]]:
    """What the harness finds of each model.

    Args:
        models: each is in memory, in float32, while it is asked.
        tasks: names as the harness knows them, or "python-docs".
        limit: questions a task; None = all.
        items: keep what each question scored.
    """
    check_tasks(tasks)
    import lm_eval
    from lm_eval.tasks import TaskManager

    with TemporaryDirectory(prefix="featherweight-tasks-") as folder:
        write_local_task(Path(folder))
        manager = TaskManager(include_path=folder)
        return [
            lm_eval.simple_evaluate(
                model=_wrapped(model), tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=0,
                log_samples=items,
            )
            for model in models
        ]  # fmt: skip


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuses tasks that cannot be run, before anything long is started.

    Raises:
        MissingExtra: lm-eval is not installed; DataError: a task is unknown.
    """
    if not tasks:
        return
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtra("--tasks", "lm-eval", "eval") from None
    known = [*TaskManager().all_tasks, LOCAL]
    for name in tasks:
        if name not in known:
            hint = nearest(name, known) or f"see `lm-eval ls tasks`, or use {LOCAL}"
            raise DataError(f"task {name!r}", "is unknown to lm-evaluation-harness", hint)


def _wrapped(model: Model) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.module(), tokenizer=model.tokenizer, batch_size=8)


def _paired(parent: Mapping[str, Any], child: Mapping[str, Any]) -> list[TaskScore]:
    scores = []
    for task, row in parent["results"].items():
        for key, value in row.items():
            metric = key.split(",")[0]
            if not isinstance(value, float) or metric.endswith("_stderr") or metric == "alias":
                continue
            error = key.replace(metric, f"{metric}_stderr", 1)
            other = child["results"][task]
            items = int(parent["n-samples"][task]["effective"])
            scores.append(
                TaskScore(task, metric, value, _number(row.get(error)), other[key], _number(other.get(error)), items)
            )
    return scores


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def write_local_task(folder: Path, count: int = 200, seed: int = 0) -> None:
    """Writes the task `python-docs` and its questions into a folder, as the harness reads them."""
    data = folder / "python_docs.jsonl"
    data.write_text("\n".join(json.dumps(each) for each in questions(count, seed)), encoding="utf-8")
    task = {
        "task": LOCAL,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "python_docs.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML


def questions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions with four choices and the index of the right one; the same for one Python version and seed."""
    described = _described()
    chooser = random.Random(seed)
    names = sorted(described)
    chosen = chooser.sample(names, min(count, len(names)))
    made = []
    for name in chosen:
        others = chooser.sample([other for other in names if other != name], _OPTIONS - 1)
        choices = [name, *others]
        chooser.shuffle(choices)
        question = f'The Python function documented as "{described[name]}" is called'
        made.append({"question": question, "choices": choices, "answer": choices.index(name)})
    return made


def _described() -> dict[str, str]:
    """First documentation sentences of functions, by name; those that give the name away are left out."""
    found: dict[str, str] = {}
    for module in _MODULES:
        for name, value in vars(importlib.import_module(module)).items():
            text = inspect.getdoc(value) if callable(value) and not name.startswith("_") else None
            sentence = " ".join((text or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")
            if 30 <= len(sentence) <= 160 and name.lower() not in sentence.lower() and not inspect.isclass(value):
                found.setdefault(name, sentence)
    return found
