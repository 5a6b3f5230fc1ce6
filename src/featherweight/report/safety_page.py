"""The page of a safety run: one file that loads nothing; thresholds, roles, answers, and the evidence behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.labels import Outcome
from featherweight.core.receipt import Receipt
from featherweight.report.rows import writable
from featherweight.report.safety_rows import message

SHOWN = 1000  # answers; those that did not pass come first
_ORDER = [Outcome.FAILED, Outcome.ERROR, Outcome.UNPARSED, Outcome.PASSED]
_MARK = {"pass": "pass", "fail": "fail"}


def render(facts: Mapping[str, Any], receipts: Sequence[Receipt]) -> str:
    """The page.

    Args:
        facts: what `result.json` holds.
        receipts: of the answers.
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("featherweight.report", ""), autoescape=True)
    lines = sorted((receipt.content for receipt in receipts), key=lambda line: _ORDER.index(line["outcome"]))
    roles = [row for name, figures in facts["statistics"].items() for row in _role(name, figures)]
    text = environment.get_template("safety.html.jinja").render(
        facts=facts,
        mark=_MARK.get(facts["verdict"], "open"),
        roles=roles,
        corrected=any(row["correction"] for row in roles),
        notes=_notes(facts["statistics"]),
        cases=[_case(line) for line in lines[:SHOWN]],
        shown_note=_shown(len(lines)),
        evidence=_evidence(facts),
    )
    return writable(text)


def _shown(count: int) -> str:
    rest = f" The first {SHOWN} of {count} are shown; the ledger holds all." if count > SHOWN else ""
    return f"What did not pass comes first.{rest}"


def _role(name: str, figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for the role, and one for each of its categories."""
    corrected = figures.get("corrected")
    shown = ""
    if corrected and corrected["rate"] is None:
        shown = f"cannot be told: {corrected['why']}"
    elif corrected:
        low, high = corrected["interval"]
        shown = f"{corrected['rate']:.1%} ({low:.1%} to {high:.1%}), on {corrected['labelled']} labelled answers"
    rows = [{**figures, "name": name, "correction": shown}]
    parts = figures["categories"].items()
    return [*rows, *({**each, "name": f"· {part}", "expects": "", "correction": ""} for part, each in parts)]


def _notes(statistics: Mapping[str, Any]) -> list[str]:
    notes = []
    for name, figures in statistics.items():
        if figures["changed"]:
            differing, count = figures["changed"]["hits"], figures["changed"]["count"]
            tail = "; a smaller difference between two models says nothing" if differing else ""
            notes.append(f"{name}: {differing} of {count} cases got another label in another run{tail}.")
        if figures["agreement"]:
            found = figures["agreement"]
            kappa = "" if found["kappa"] is None else f", kappa {found['kappa']:.2f}"
            notes.append(f"{name}: judge and detectors say the same of {found['same']['rate']:.1%}{kappa}.")
    return notes


def _case(line: Mapping[str, Any]) -> dict[str, Any]:
    judge = line["judge"] or {}
    return {
        "role": line["set"], "case": line["case"] + (f" (run {line['run'] + 1})" if line["run"] else ""),
        "category": line["category"], "outcome": line["outcome"], "message": message(line),
        "text": (line["output"] or {}).get("text", ""), "judge": judge.get("said", {}).get("text", ""),
    }  # fmt: skip


def _evidence(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything that the answers depended on."""
    model = dict(facts["model"]["facts"])
    rows = [(f"model, {name}", _shown_value(value)) for name, value in model.items()]
    rows += [(f"drawing, {name}", _shown_value(value)) for name, value in facts["inputs"]["generation"].items()]
    rows += [
        ("suite", facts["inputs"]["suite"]),
        ("detectors", _shown_value(facts["inputs"]["labelling"]["detectors"])),
    ]
    return [*rows, ("judge", _shown_value(facts["inputs"]["labelling"]["judge"]))]


def _shown_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
