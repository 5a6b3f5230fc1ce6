"""What a paired safety comparison rests on, the conclusion from it, and its two files: `flips.jsonl`, `safety.json`.

A conclusion can be drawn again from the files when people have said what single answers are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError
from featherweight.core.policy import Margins
from featherweight.core.receipt import read_ledger
from featherweight.core.user_file import read_json_object
from featherweight.core.whole import whole_file
from featherweight.verify.adjudications import Adjudications
from featherweight.verify.flips import Row, flips_facts, read_flips, with_labels, write_flips
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.safety_diff import safety_diff
from featherweight.verify.safety_pairs import Answers, answers_of, every
from featherweight.verify.safety_report import Found, safety_report
from featherweight.verify.section import Section

FLIPS, FACTS = "flips.jsonl", "safety.json"
_CARRIED = ("noise_floor", "wording", "signals", "policy", "receipts")


@dataclass(frozen=True)
class Evidence:
    """Everything that a conclusion needs beside the labels of people.

    Attributes:
        parent, child: their labelled answers.
        margins: how much may be lost.
        rows: flips, doubts and the sample.
        noise, wording, signals: see `verify.safety_report`.
        further: checks of the child alone.
        identity: policy and receipts.
    """

    parent: Answers
    child: Answers
    margins: Margins
    rows: Sequence[Row]
    noise: Mapping[str, Any] | None
    wording: Mapping[str, Any] | None
    signals: Mapping[str, Any] | None
    further: tuple[Check, ...]
    identity: Mapping[str, Any]


def concluded(evidence: Evidence, people: Adjudications, folder: Path) -> Section:
    """The section, by what people said so far; flips and facts are written into the folder."""
    rows = with_labels(evidence.rows, people)
    automatic = safety_diff(evidence.parent, evidence.child, evidence.margins)
    said = any(map(people.label, every(evidence.parent) + every(evidence.child)))
    parent, child = people.applied(evidence.parent), people.applied(evidence.child)
    settled = safety_diff(parent, child, evidence.margins) if said else None
    found = Found(
        automatic, settled, evidence.noise, evidence.wording,
        evidence.signals, flips_facts(rows), evidence.identity,
    )  # fmt: skip
    section = safety_report(found, evidence.further)
    write_flips(folder / FLIPS, rows)
    _write(folder / FACTS, section, evidence.further)
    return section


def _write(path: Path, section: Section, further: Sequence[Check]) -> None:
    record = {
        "verdict": section.verdict, "checks": [asdict(check) for check in section.checks],
        "child_alone": [asdict(check) for check in further], "facts": section.facts,
    }  # fmt: skip
    with whole_file(path) as draft:
        draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_evidence(folder: Path) -> Evidence:
    """What a finished comparison left.

    Raises:
        CheckpointError: there is none in the folder; LedgerError: its receipts were changed.
    """
    path, mend = folder / FACTS, "compare the models again"
    if not path.is_file():
        raise CheckpointError(str(folder), f"holds no finished comparison ({FACTS})", "give the folder of one")
    record = read_json_object(path, CheckpointError, mend)
    try:
        noise, wording, signals, policy, receipts = (record["facts"][key] for key in _CARRIED)
        margins = Margins(**policy["margins"])
        further = tuple(Check(**{**each, "verdict": Verdict(each["verdict"])}) for each in record["child_alone"])
        parent, child = (answers_of(read_ledger(folder / receipts[who]["path"])) for who in ("parent", "child"))
    except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise CheckpointError(str(path), f"is not whole ({type(error).__name__}: {error})", mend) from None
    rows = read_flips(folder / FLIPS)
    return Evidence(
        parent, child, margins, rows, noise, wording, signals, further, {"policy": policy, "receipts": receipts}
    )  # fmt: skip
