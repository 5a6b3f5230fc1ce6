"""What each question of a benchmark task scored, for a parent and its child, paired question by question.

Two models are asked the same questions, so what is compared is the difference on each one, not two averages: most of
the spread between questions is common to both and cancels. Metrics that are no mean over questions (such as a
perplexity over a whole corpus) have no such differences and are left out by name. A model's scores are kept in the
run's store, so that a parent of several children is asked once.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import np
from featherweight.core.model import Model
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.measure.quality import RESAMPLES, interval_of
from featherweight.measure.tasks import check_tasks, evaluated

_AT_ONCE = 10**7  # drawn numbers in memory
_HASHES = ("doc_hash", "prompt_hash", "target_hash")
Scores = Mapping[str, Any]
"""What the harness found of one model, reduced to plain JSON: by task, by metric, mean and score of each question."""


@dataclass(frozen=True)
class TaskItems:
    """One metric of one task.

    Attributes:
        task, metric: names as the harness has them; a metric of a filtered answer is "metric,filter".
        parent, child: score of each question, float64 [questions], in one order.
        higher_is_better: whether more is better.
        skipped: why there are no scores; empty where there are.
    """

    task: str
    metric: str
    parent: np.ndarray
    child: np.ndarray
    higher_is_better: bool = True
    skipped: str = ""

    @property
    def gains(self) -> np.ndarray:
        """What the child gains on each question, less than 0 where it loses; float64 [questions]."""
        found: np.ndarray = self.child - self.parent if self.higher_is_better else self.parent - self.child
        return found

    @functools.cached_property
    def gain_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean gain."""
        return resampled_gains(self.gains)

    @property
    def binary(self) -> bool:
        """Whether a question is either answered or not."""
        return bool(np.isin(np.concatenate([self.parent, self.child]), (0, 1)).all())


def task_items(
    parent: Model, child: Model, tasks: Sequence[str], run: Run, limit: int | None = None
) -> list[TaskItems]:
    """Runs tasks on both models in float32 and pairs what they scored.

    Args:
        parent: the model to compare with.
        child: the model to judge; rounded formats are read back exactly.
        tasks: names as the harness knows them, or "python-docs".
        run: holds the store.
        limit: questions a task; None = all.

    Raises:
        MissingExtra: lm-eval is not installed; DataError: a task is unknown, or the models were not asked the same.
    """
    check_tasks(tasks)
    return paired_items(*(_scores_once(model, tasks, run, limit) for model in (parent, child)))


def _scores_once(model: Model, tasks: Sequence[str], run: Run, limit: int | None) -> Scores:
    facts = {
        "model": model.fingerprint, "tasks": list(tasks), "limit": limit, "versions": versions(),
        "harness": importlib.metadata.version("lm_eval"),
    }  # fmt: skip
    found: Scores = run.store.json("tasks", facts, lambda: reduced(evaluated([model], tasks, limit, items=True)[0]))
    return found


def reduced(found: Mapping[str, Any]) -> Scores:
    """The scores of every question from what the harness returns."""
    kept: dict[str, Any] = {}
    for task, samples in found["samples"].items():
        better, metrics = found["higher_is_better"].get(task, {}), {}
        for key, mean in found["results"][task].items():
            if not isinstance(mean, float) or "_stderr" in key:
                continue
            name, _, of = key.partition(",")
            own = sorted((each for each in samples if each.get("filter", of) == of), key=lambda each: each["doc_id"])
            label = key if of not in ("", "none") else name
            metrics[label] = {
                "better": bool(better.get(name, True)), "mean": mean,
                "asked": [[each.get(key) for key in _HASHES] for each in own], "scores": _numbers(own, name),
            }  # fmt: skip
        kept[task] = metrics
    return kept


def _numbers(samples: Sequence[Mapping[str, Any]], metric: str) -> list[float] | None:
    """A metric of every question; None where it is no number of a question's own."""
    values = [value for each in samples if isinstance(value := each.get(metric), (int, float))]
    return [float(value) for value in values] if len(values) == len(samples) else None


def paired_items(parent: Scores, child: Scores) -> list[TaskItems]:
    """Scores of two models question by question.

    Raises:
        DataError: they were not asked the same.
    """
    return [_paired(task, name, parent[task][name], child[task][name]) for task in parent for name in parent[task]]


def _paired(task: str, metric: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> TaskItems:
    if ours["asked"] != theirs["asked"]:
        raise DataError(
            f"task {task!r}", "asked parent and child different questions", "leave the task out, or report it"
        )
    one, other = ours["scores"], theirs["scores"]
    better, nothing = bool(ours["better"]), np.empty(0)
    if not one or not other or not math.isclose(sum(one) / len(one), ours["mean"], rel_tol=1e-6, abs_tol=1e-9):
        return TaskItems(task, metric, nothing, nothing, better, "is no mean over questions")
    return TaskItems(task, metric, np.array(one, dtype=np.float64), np.array(other, dtype=np.float64), better)


def resampled_gains(gains: np.ndarray, seed: int = 0, size: int = RESAMPLES) -> tuple[float, float]:
    """95 % bootstrap interval of the mean gain: questions are drawn anew, parent and child together."""
    draw, count = np.random.default_rng(seed), len(gains)
    rows = max(1, _AT_ONCE // count)
    means = [
        gains[draw.integers(count, size=(min(rows, size - first), count))].mean(1) for first in range(0, size, rows)
    ]
    return interval_of(np.concatenate(means))
