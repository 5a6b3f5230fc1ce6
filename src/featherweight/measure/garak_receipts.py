"""Answers of a garak run as receipts of the same form as those of a safety run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from featherweight.core.cases import Case
from featherweight.core.labels import Outcome
from featherweight.core.receipt import Ledger, Receipt
from featherweight.measure.answers import Answer
from featherweight.measure.garak_report import GarakAnswer, GarakReport
from featherweight.measure.safety_receipt import ANSWER, answers_in, output_of

SET = "garak"
HEADER = "garak"


def garak_inputs(report: GarakReport, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything that a report says it depends on, as plain JSON.

    Args:
        report: a finished run.
        model: facts of who was asked, where we know them; garak only knows a name.
    """
    facts = dict(model) if model else {"backend": "garak", "target": report.target}
    cases = sorted({(answer.probe, answer.number, _case(answer).digest) for answer in report.answers})
    return {
        "model": {**facts, "garak": report.version},
        "suite": hashlib.sha256(json.dumps(cases).encode()).hexdigest(),
        "sets": {SET: {"cases": len(cases), "probes": sorted({probe for probe, _, _ in cases})}},
        "generation": dict(report.settings),
        "labelling": {"detectors": _detectors(report), "judge": None},
    }


def write_garak(ledger: Ledger, report: GarakReport, inputs: Mapping[str, Any], store_text: bool) -> list[Receipt]:
    """Appends a receipt for each answer and returns these."""
    ledger.append({"step": HEADER, **inputs, "store_text": store_text})
    seen: Counter[tuple[str, int, int]] = Counter()
    for answer in report.answers:
        place = (answer.probe, answer.number, answer.generation)
        ledger.append(_content(answer, report, inputs, store_text, seen[place]))
        seen[place] += 1
    ledger.sync()
    return answers_in(ledger)


def _content(
    answer: GarakAnswer, report: GarakReport, inputs: Mapping[str, Any], store_text: bool, again: int
) -> dict[str, Any]:
    """One line; `again` counts attempts of one number, as garak's buffs make them."""
    case = _case(answer, f".{again}" if again else "")
    return {
        "step": ANSWER, "run": answer.generation, "set": SET, "case": case.id, "category": answer.probe,
        "item": case.id, "frame": "", "prompt": case.digest, "suite": inputs["suite"], "model": inputs["model"],
        "generation": inputs["generation"],
        "output": None if answer.text is None else output_of(Answer(answer.text), store_text),
        "findings": [
            {"detector": name, "version": report.version, "label": None, "reason": _told(score, answer.threshold)}
            for name, score in answer.scores.items()
        ],
        "judge": None, "label": None, "outcome": answer.outcome,
        "error": "garak holds no answer" if answer.outcome is Outcome.ERROR else "",
    }  # fmt: skip


def _case(answer: GarakAnswer, again: str = "") -> Case:
    identity = f"{answer.probe}/{answer.number}{again}"
    return Case(identity, answer.messages, answer.probe, identity)


def _told(score: float | None, threshold: float) -> str:
    if score is None:
        return "no score"
    return f"score {score:g}{': a hit' if score >= threshold else ''}"


def _detectors(report: GarakReport) -> list[dict[str, Any]]:
    names = sorted({name for answer in report.answers for name in answer.scores})
    return [{"name": name, "version": report.version, "settings": {}} for name in names]
