"""The facts of a run, as `result.json` keeps them: what the report shows and what later verbs read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.core.budget import Budget
from featherweight.core.memory import peak_memory
from featherweight.core.receipt import surroundings, versions
from featherweight.core.workspace import Workspace
from featherweight.plan.choose import frontier
from featherweight.plan.planner import Plan
from featherweight.plan.study import Study, precision_map
from featherweight.verbs.finish import Finished
from featherweight.verbs.prepare import Rows


def gather_facts(
    name: str, budget: Budget | None, study: Study, rows: Rows, plan: Plan, finished: Finished | None,
    workspace: Workspace, seconds: float, curve: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Everything about a run but its verdict.

    Args:
        name: the model as the user named it.
        budget: the limits; None where a recipe was given instead.
        study: parent and goal.
        rows: the token rows.
        plan: what was tried.
        finished: what was exported; None where nothing met the goal.
        workspace: the run's folder.
        seconds: wall time so far.
        curve: whether the expected frontier belongs to it.
    """
    parent = study.parent
    receipts = list(workspace.ledger())
    return {
        "model": {
            "name": name,
            "fingerprint": parent.fingerprint,
            "architecture": parent.architecture.class_name,
            "parameters": parent.parameters,
            "blocks": parent.architecture.blocks,
            "bf16_bytes": study.parent_bytes,
        },
        "format": study.exporter.name,
        "budget": budget.model_dump(exclude_none=True) if budget else {},
        "goal": study.goal.describe(),
        "limits": study.goal.__dict__,
        "chosen": finished.to_dict() if finished else None,
        "precision": precision_map(finished.formats) if finished else {},
        "trials": [trial.to_dict() for trial in plan.trials],
        "frontier": [trial.candidate.name for trial in frontier(plan.trials)],
        "curve": _curve(study) if curve else [],
        "orders": [pair.to_dict() for pair in plan.orders],
        "data": rows.to_dict(),
        "receipts": {"count": len(receipts), "head": receipts[-1].digest if receipts else None},
        "ledger": [receipt_facts(receipt) for receipt in receipts],
        "environment": {**versions(), **surroundings()},
        "cost": {
            "seconds": round(seconds, 1),
            "peak_memory": peak_memory(),
            "tokens": plan.tokens,
            "measurements": study.run.store.made,
        },
    }


def _curve(study: Study) -> Sequence[dict[str, Any]]:
    return [
        {"memory": each.memory, "ratio": each.ratio, "cut": str(each.cut), "latency": study.seconds(each)}
        for each in study.curve
    ]


def receipt_facts(receipt: Any) -> dict[str, Any]:
    """A receipt as the report shows it."""
    content = receipt.content
    return {
        "hash": receipt.digest,
        "step": content.get("technique") or content.get("step"),
        "before": content.get("before"),
        "after": content.get("after") or content.get("fingerprint"),
        "bytes": content.get("bytes"),
        "quality": content.get("quality"),
        "seconds": receipt.volatile.get("seconds"),
        "peak_memory": receipt.volatile.get("peak_memory"),
    }
