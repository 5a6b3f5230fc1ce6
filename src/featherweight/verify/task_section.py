"""The task part of a verification: is the child worse on a benchmark by more than a margin, question by question?

A metric passes when the whole 95 % bootstrap interval of the mean gain lies above minus the margin. Where a question is
either answered or not, the loss must also be below the margin by an exact paired test: a bootstrap of a few questions
that all came out alike has no width, and would certify anything. It fails when the whole interval lies below minus the
margin. Everything else cannot be told, and more questions would decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.core.lazy import np
from featherweight.measure.task_items import TaskItems
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.non_inferiority import upper_bound
from featherweight.verify.power import power_statement
from featherweight.verify.section import Section


def task_section(items: Sequence[TaskItems], margin: float, same: bool = False) -> Section:
    """The checks of one child.

    Args:
        items: what each question of each metric scored.
        margin: how much a mean may fall, 0.02 = two points of a hundred.
        same: whether the child is its parent, so that equal scores prove that nothing was lost.
    """
    checks = tuple(_check(each, margin, same) for each in items)
    return Section("tasks", checks, {"margin": margin, "scores": [_facts(each) for each in items]})


def _check(items: TaskItems, margin: float, same: bool) -> Check:
    name, asked = f"{items.task}, {items.metric}", f"a loss of at most {margin:.1%}"
    if items.skipped:
        return Check(name, asked, "nothing", Verdict.CANNOT_TELL, f"the metric {items.skipped}")
    gains = items.gains
    low, high = items.gain_interval
    found = f"{items.parent.mean():.1%} → {items.child.mean():.1%} (by {low:+.1%} to {high:+.1%})"
    questions = f"{len(gains)} questions"
    if same and not gains.any():
        return Check(name, asked, found, Verdict.PASS, f"the same score on each of {questions}")
    if high < -margin:
        return Check(name, asked, found, Verdict.FAIL, f"the whole interval of {questions} is beyond the margin")
    if low < -margin:
        return Check(name, asked, found, Verdict.CANNOT_TELL, f"the margin is inside the interval of {questions}")
    if (items.binary or not gains.any()) and (bound := _exact_bound(gains)) > margin:
        reason = f"a loss of up to {bound:.1%} is not excluded; {power_statement(len(gains), margin)}"
        return Check(name, asked, found, Verdict.CANNOT_TELL, reason)
    return Check(name, asked, found, Verdict.PASS, f"the whole interval of {questions} is within the margin")


def _exact_bound(gains: Any) -> float:
    """What the loss is shown to be below, from the questions that changed."""
    return upper_bound(int((gains < 0).sum()), int((gains > 0).sum()), len(gains))


def _facts(items: TaskItems) -> dict[str, Any]:
    if items.skipped:
        return {"task": items.task, "metric": items.metric, "skipped": items.skipped}
    gains = items.gains
    return {
        "task": items.task, "metric": items.metric, "questions": len(gains),
        "parent": float(items.parent.mean()), "child": float(items.child.mean()),
        "gain": float(gains.mean()), "gain_interval": list(items.gain_interval),
        "lost": int(np.sum(gains < 0)), "gained": int(np.sum(gains > 0)),
    }  # fmt: skip
