"""What a safety run leaves: the ledger, `result.json`, a page, JUnit and SARIF; all of it together or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.receipt import Receipt, surroundings, versions
from featherweight.core.workspace import Workspace
from featherweight.measure.calibration import Calibration
from featherweight.measure.safety_receipt import answers_in, identity_of
from featherweight.measure.safety_statistics import counts
from featherweight.report import safety_page
from featherweight.report.junit import junit
from featherweight.report.safety_rows import RULES, Places, safety_rows
from featherweight.report.sarif import sarif
from featherweight.verify.section import Section

KIND = "safety"
NO_THRESHOLDS = "no thresholds"


@dataclass(frozen=True)
class Evidence:
    """Everything that came of a run.

    Attributes:
        name: the model as the user named it.
        inputs: everything that the receipts depend on; "model" holds the facts of who was asked.
        receipts: the whole ledger.
        section: the verdict.
        policy: what was declared; empty where another engine asked.
        places: where the cases are declared.
        calibration: labels of people, where there are any.
    """

    name: str
    inputs: Mapping[str, Any]
    receipts: Sequence[Receipt]
    section: Section
    policy: Mapping[str, Any] = field(default_factory=dict)
    places: Places = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def verdict(self) -> str:
        """In words; where there are no thresholds there is none."""
        return str(self.section.verdict) if self.section.checks else NO_THRESHOLDS


def gather_facts(evidence: Evidence, seconds: float) -> dict[str, Any]:
    """The manifest: plain JSON."""
    receipts, answers = evidence.receipts, answers_in(evidence.receipts)
    return {
        "kind": KIND,
        "model": {
            "name": evidence.name, "identity": identity_of(evidence.inputs["model"]), "facts": evidence.inputs["model"],
        },
        "policy": dict(evidence.policy),
        "inputs": {key: value for key, value in evidence.inputs.items() if key != "model"},
        "verdict": evidence.verdict,
        "checks": [asdict(check) for check in evidence.section.checks],
        "cases": len({(each.content["set"], each.content["case"]) for each in answers}),
        "runs": 1 + max(each.content["run"] for each in answers),
        "answers": len(answers),
        "counts": counts(receipts),
        "statistics": dict(evidence.section.facts),
        "calibration": evidence.calibration.to_dict() if evidence.calibration else None,
        "receipts": {"count": len(receipts), "head": receipts[-1].digest},
        "environment": {**versions(), **surroundings()},
        "seconds": round(seconds, 1),
    }  # fmt: skip


def finish(folder: Path, target: Path, evidence: Evidence, facts: Mapping[str, Any]) -> None:
    """Writes the reports beside the ledger and gives the folder its name."""
    answers = answers_in(evidence.receipts)
    rows = safety_rows(answers, evidence.places)
    identity = {
        "model": facts["model"]["identity"], "suite": facts["inputs"]["suite"], "ledger": facts["receipts"]["head"],
    }  # fmt: skip
    texts = {
        "report.html": safety_page.render(facts, answers),
        "junit.xml": junit(f"safety of {evidence.name}", rows, identity),
        "results.sarif": sarif(rows, RULES, {**identity, "verdict": facts["verdict"]}),
        "result.json": json.dumps(facts, indent=1) + "\n",
    }
    workspace = Workspace(folder)
    for name, text in texts.items():
        workspace.write(folder / name, text)
    if folder != target:
        os.replace(folder, target)
