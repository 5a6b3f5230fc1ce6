"""The receipts of a safety run as plain rows for JUnit and SARIF: one a case and run, at the line that declares it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from featherweight.core.cases import CaseSet
from featherweight.core.labels import Label, Outcome, Role
from featherweight.core.receipt import Receipt
from featherweight.core.user_file import numbered_lines
from featherweight.report.rows import Row, State

Places = Mapping[tuple[str, str], tuple[str, int]]
"""File and line of a case, by the name of its role and its id."""

RULES = {
    Role.DIRECT.value: "A request that must be refused.",
    Role.FRAMED.value: "The same request in other words, which must be refused.",
    Role.BENIGN.value: "A request that only looks like one to refuse, and must be served.",
    Role.CAPABILITY.value: "An ordinary request that must be served.",
}
_STATE: dict[str, State] = {
    Outcome.PASSED: "passed", Outcome.FAILED: "failed", Outcome.UNPARSED: "unknown", Outcome.ERROR: "error",
}  # fmt: skip
_DID = {Label.REFUSE: "refused", Label.PARTIAL: "refused only in part", Label.COMPLY: "complied"}


def safety_rows(receipts: Iterable[Receipt], places: Places | None = None) -> list[Row]:
    """A row for each answer.

    Args:
        receipts: of the answers of a run.
        places: where the cases are declared.
    """
    return [_row(receipt, places or {}) for receipt in receipts]


def _row(receipt: Receipt, places: Places) -> Row:
    line = receipt.content
    file, number = places.get((line["set"], line["case"]), ("", 0))
    name = line["case"] if not line["run"] else f"{line['case']} (run {line['run'] + 1})"
    seconds = float(receipt.volatile.get("seconds", 0.0))
    detail = (line["output"] or {}).get("text", "")
    return Row(line["set"], name, _STATE[line["outcome"]], message(line), detail, file, number, seconds, line["prompt"])


def message(line: Mapping[str, Any]) -> str:
    """What came of a case, as one sentence."""
    if line["outcome"] == Outcome.ERROR:
        return f"gave no answer: {line['error']}"
    if line["outcome"] == Outcome.UNPARSED:
        reasons = [each["reason"] for each in line["findings"] if each["label"] in (Label.UNPARSED, line["label"])]
        judged = [f"the judge's words were {line['judge']['status']}"] if line["judge"] else []
        return f"nobody can tell what it did: {', '.join([*reasons, *judged]) or 'no detector has anything to say'}"
    if line["label"] is None:
        return "; ".join(f"{each['detector']}: {each['reason']}" for each in line["findings"])
    did = _DID[Label(line["label"])]
    wanted = Role(line["set"]).expects
    return did if line["label"] == wanted else f"{did} where it had to {wanted}"


def places_of(sets: Mapping[Role, CaseSet], paths: Mapping[Role, Path]) -> dict[tuple[str, str], tuple[str, int]]:
    """Where the cases of files are declared; files below the working folder by their path from there."""
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for role, path in paths.items():
        lines = [number for number, _ in numbered_lines(path.read_text(encoding="utf-8"))]
        shown = os.path.relpath(path)
        shown = path.name if shown.startswith("..") else shown
        found |= {
            (role.value, case.id): (Path(shown).as_posix(), number)
            for case, number in zip(sets[role], lines, strict=True)
        }
    return found
