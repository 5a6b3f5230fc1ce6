"""The record of a verification: a folder that appears whole or not at all, for people, build servers and later readers.

    verdict.json    everything that was found; `content` is what the same inputs give again, `digest` its SHA-256
    report.html     the same to look at, in one file that works offline
    junit.xml       for build servers
    verdict.sarif   for code scanning
    ledger.jsonl    a receipt for each section, chained; `featherweight verify --ledger` checks it
    safety/         receipts of every answer, and the flips for `featherweight adjudicate`, where safety was compared
    monitor/        scores how usual a request is, where layers were compared (`measure.monitor_folder.load_monitor`)

Each section is receipted as soon as it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.memory import peak_memory
from featherweight.core.receipt import Ledger, surroundings, versions
from featherweight.core.whole import whole_folder
from featherweight.report.junit import junit
from featherweight.report.safety_rows import Places
from featherweight.report.sarif import sarif
from featherweight.report.verdict_page import render
from featherweight.report.verdict_rows import check_rows, lost_rows
from featherweight.verbs.verify_ledger import SAFETY
from featherweight.verbs.verify_subjects import Child
from featherweight.verify.section import Section
from featherweight.verify.verification import Verification, section_facts

LEDGER, VERDICT, PAGE, JUNIT, SARIF = "ledger.jsonl", "verdict.json", "report.html", "junit.xml", "verdict.sarif"
MONITOR = "monitor"
_FLIPS = 24  # of the safety comparison, kept in verdict.json


class Record:
    """What is written while a verification goes on, and at its end.

    Args:
        folder: an existing folder; None = nothing is kept.
        scratch: where the safety comparison writes then.
    """

    def __init__(self, folder: Path | None, scratch: Path | None = None) -> None:
        self.folder = folder
        self.safety = (folder or scratch or Path()) / SAFETY
        self.monitor = folder and folder / MONITOR
        self._ledger = None if folder is None else Ledger(folder / LEDGER)

    def sections(self, child: Child, sections: Sequence[Section]) -> None:
        """A receipt for each section of a child."""
        if self._ledger is None:
            return
        for section in sections:
            found = section_facts(section)
            self._ledger.append({
                "step": "verify", "parent": child.parent.model.fingerprint, "child": child.facts(),
                "section": section.name, "verdict": found["verdict"], "checks": found["checks"],
                "facts": digest_of_json(found["facts"]), "versions": versions(),
            })  # fmt: skip

    def finish(self, found: Verification, inputs: Mapping[str, Any], places: Places, seconds: float) -> None:
        """Everything else.

        Args:
            found: the verification.
            inputs: what was asked for, as plain JSON.
            places: where the cases of the safety comparison are declared.
            seconds: what it took.
        """
        if self.folder is None or self._ledger is None:
            return
        whole = plain({**found.to_dict(), "inputs": dict(inputs), "versions": versions()})
        content = shortened(whole)
        digest = digest_of_json(content)
        last = self._ledger.append({"step": "verdict", "verdict": str(found.verdict), "content": digest})
        verdict = {
            "content": content, "digest": digest, "receipts": {"count": len(self._ledger), "head": last.digest},
            "volatile": {**surroundings(), "seconds": round(seconds, 3), "peak_memory": peak_memory()},
        }  # fmt: skip
        checks, facts = check_rows(whole), {"verdict": str(found.verdict), "digest": digest}
        self._write(VERDICT, json.dumps(verdict, indent=1, ensure_ascii=False) + "\n")
        self._write(PAGE, render(verdict))
        self._write(JUNIT, junit("featherweight verify", checks, facts))
        self._write(SARIF, sarif([*checks, *lost_rows(whole, places)], facts=facts))

    def _write(self, name: str, text: str) -> None:
        assert self.folder is not None  # whoever calls has looked
        (self.folder / name).write_text(text, encoding="utf-8")


@contextlib.contextmanager
def recorded(target: Path | None) -> Iterator[Record]:
    """A record that becomes the folder `target` when the block ends well, or writes nothing at all."""
    if target is None:
        with tempfile.TemporaryDirectory(prefix="featherweight-verify-") as scratch:
            yield Record(None, Path(scratch))
        return
    with whole_folder(target) as draft:
        yield Record(draft)


def shortened(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content without most of the flips, which are all in `safety/flips.jsonl`; their number stays."""
    return {**content, "children": [_few_flips(child) for child in content["children"]]}


def _few_flips(child: Mapping[str, Any]) -> dict[str, Any]:
    sections = []
    for section in child["sections"]:
        flips = section["facts"].get("flips")
        if flips is not None:
            kept = {**flips, "rows": flips["rows"][:_FLIPS], "rows_digest": digest_of_json(flips["rows"])}
            section = {**section, "facts": {**section["facts"], "flips": kept}}
        sections.append(section)
    return {**child, "sections": sections}


def plain(value: Any) -> Any:
    """The value as any reader of JSON gets it back: no number without end, no half of a character."""
    return _finite(json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest_of_json(value: Any) -> str:
    """SHA-256 of plain JSON in its canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
