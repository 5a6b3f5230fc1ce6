"""The final choice among measured candidates, and the explanation when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.core.budget import format_bytes
from featherweight.core.reference_frame import Criterion, rank
from featherweight.plan.candidates import smallest
from featherweight.plan.frontier import pareto
from featherweight.plan.goal import CRITERIA, Goal, Measured
from featherweight.plan.search import Trial
from featherweight.plan.study import Study

_NO_FLOOR = 0.2  # where quality is not limited, a fifth of the parent's is as bad as nothing


def criteria(goal: Goal, parent_bytes: int) -> list[Criterion]:
    """What candidates are compared by: what the user limits is a floor, what is left open is improved.

    Each criterion runs from its limit (0) to the parent's quality, or to half the limited bytes or seconds (1); where
    bytes are not limited, to those of two bits a weight. Bytes within their limit are worth little where quality is
    open: who limits bytes alone wants the best model that fits.
    """
    floor = goal.quality if goal.quality is not None else _NO_FLOOR
    limit = goal.memory if goal.memory is not None else parent_bytes
    quality, memory = (0.2, 0.7) if goal.memory is None else (0.7, 0.2) if goal.quality is not None else (0.88, 0.02)
    found = [
        Criterion("quality", floor, max(1.0, floor + 0.01), quality),
        Criterion("memory", limit, limit / (2 if goal.memory is not None else 8), memory, benefit=False),
    ]
    if goal.latency is not None:
        found.append(Criterion("latency", goal.latency, goal.latency / 2, 0.1, benefit=False))
    return found


def ranked(trials: Sequence[Trial], goal: Goal, parent_bytes: int) -> list[tuple[Trial, float]]:
    """The measured trials that meet the goal as far as it was measured, best first, with their closeness."""
    open_goal = goal.without("resident")  # measured on the exported file only
    alternatives: dict[str, dict[str, float]] = {}
    by_name: dict[str, Trial] = {}
    for trial in trials:
        measured = trial.measured()
        if measured is None or open_goal.misses(measured):
            continue
        by_name[trial.candidate.name] = trial
        alternatives[trial.candidate.name] = {
            "quality": measured.quality, "memory": measured.memory, "latency": measured.latency or 0.0,
        }  # fmt: skip
    return [(by_name[name], score) for name, score in rank(alternatives, criteria(goal, parent_bytes)).ranked]


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """The measured trials that no other beats in bytes, latency and quality together."""
    measured = [trial for trial in trials if trial.status == "measured" and trial.quality is not None]
    points = [(trial.memory, trial.latency, -trial.quality.ratio if trial.quality else None) for trial in measured]
    return [measured[index] for index in pareto(points)]


def explain_infeasible(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    """Why nothing meets the goal: what can be reached, the nearest points, which limit binds.

    A limit binds when lifting it alone would let a measured or an expected candidate through.
    """
    goal = study.goal
    measured = [(trial, each) for trial in trials if (each := trial.measured()) is not None]
    reachable: dict[str, str] = {
        "memory": f"{format_bytes(smallest(study.prior))} (every tensor in its smallest format)"
    }
    needed = study.needed(goal.quality) if goal.quality is not None else None
    if needed is not None:
        reachable["memory at this quality"] = f"about {format_bytes(needed.memory)} (expected)"
    fitting = [each for _, each in measured if goal.memory is None or each.memory <= goal.memory]
    if fitting:
        reachable["quality"] = f"{max(each.quality for each in fitting):.1%} within the memory limit (measured)"
    timed = [each.latency for _, each in measured if each.latency is not None]
    if timed:
        reachable["latency"] = f"{min(timed) * 1000:.1f} ms a token (measured)"
    nearest = sorted(measured, key=lambda pair: (_shortfall(goal, pair[1]), pair[1].memory))[:3]
    return {
        "goal": goal.describe(),
        "reachable": reachable,
        "nearest": [{**trial.to_dict(), "misses": goal.misses(each)} for trial, each in nearest],
        "binding": [name for name in CRITERIA if _binds(study, name, [each for _, each in measured])],
    }


def _shortfall(goal: Goal, measured: Measured) -> float:
    """How far a point is from the goal, as a sum of relative misses."""
    total = 0.0
    for name in goal.misses(measured):
        limit, value = getattr(goal, name), getattr(measured, name)
        total += 1.0 if value is None else abs(value - limit) / limit
    return total


def _binds(study: Study, name: str, measured: Sequence[Measured]) -> bool:
    if getattr(study.goal, name) is None:
        return False
    lifted = study.goal.without(name)
    if any(not lifted.misses(each) for each in measured):
        return True
    expected = [Measured(each.memory, each.ratio, study.seconds(each)) for each in study.curve]
    return any(not lifted.without("resident").misses(each) for each in expected)
