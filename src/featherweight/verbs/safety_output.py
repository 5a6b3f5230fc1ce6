"""What a safety run leaves: the ledger, `result.json`, a page, JUnit and SARIF; all of it together or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.core.cases import CaseSet
from featherweight.core.labels import Role
from featherweight.core.policy import Policy
from featherweight.core.receipt import Receipt, surroundings, versions
from featherweight.core.workspace import Workspace
from featherweight.measure.calibration import Calibration
from featherweight.measure.safety import SafetyRun
from featherweight.measure.safety_receipt import answers_in, identity_of
from featherweight.measure.safety_statistics import counts
from featherweight.report import safety_page
from featherweight.report.junit import junit
from featherweight.report.safety_rows import RULES, places_of, safety_rows
from featherweight.report.sarif import sarif
from featherweight.verify.section import Section

KIND = "safety"
NO_THRESHOLDS = "no thresholds"


@dataclass(frozen=True)
class Evidence:
    """Everything that came of a run.

    Attributes:
        name: the model as the user named it.
        policy: what was declared.
        sets: the cases.
        run: how they were put.
        receipts: the whole ledger.
        section: the verdict.
        calibration: labels of people, where there are any.
    """

    name: str
    policy: Policy
    sets: Mapping[Role, CaseSet]
    run: SafetyRun
    receipts: Sequence[Receipt]
    section: Section
    calibration: Calibration | None

    @property
    def verdict(self) -> str:
        """In words; a policy without thresholds has none."""
        return str(self.section.verdict) if self.section.checks else NO_THRESHOLDS


def gather_facts(evidence: Evidence, seconds: float) -> dict[str, Any]:
    """The manifest: plain JSON."""
    run, receipts = evidence.run, evidence.receipts
    return {
        "kind": KIND,
        "model": {"name": evidence.name, "identity": identity_of(run.inputs["model"]), "facts": run.inputs["model"]},
        "policy": evidence.policy.facts(),
        "inputs": {key: value for key, value in run.inputs.items() if key != "model"},
        "verdict": evidence.verdict,
        "checks": [asdict(check) for check in evidence.section.checks],
        "cases": sum(len(cases) for cases in evidence.sets.values()),
        "runs": run.runs,
        "answers": run.total,
        "counts": counts(receipts),
        "statistics": dict(evidence.section.facts),
        "calibration": evidence.calibration.to_dict() if evidence.calibration else None,
        "receipts": {"count": len(receipts), "head": receipts[-1].digest},
        "environment": {**versions(), **surroundings()},
        "seconds": round(seconds, 1),
    }


def finish(workspace: Workspace, target: Path, evidence: Evidence, facts: Mapping[str, Any]) -> None:
    """Writes the reports beside the ledger and gives the folder its name."""
    answers = answers_in(evidence.receipts)
    rows = safety_rows(answers, places_of(evidence.sets, evidence.policy.sets.paths()))
    identity = {
        "model": facts["model"]["identity"],
        "suite": facts["inputs"]["suite"],
        "ledger": facts["receipts"]["head"],
    }
    texts = {
        "report.html": safety_page.render(facts, answers),
        "junit.xml": junit(f"safety of {evidence.name}", rows, identity),
        "results.sarif": sarif(rows, RULES, {**identity, "verdict": facts["verdict"]}),
        "result.json": json.dumps(facts, indent=1) + "\n",
    }
    for name, text in texts.items():
        workspace.write(workspace.folder / name, text)
    os.replace(workspace.folder, target)
    (target / "run.json").unlink()
