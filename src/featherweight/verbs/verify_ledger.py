"""verify --ledger: does the chain of a run's receipts hold, and does it end where the run says?

The record of a verification holds further chains, one for the answers of each model; they are checked with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError, LedgerError
from featherweight.core.receipt import Receipt, read_ledger
from featherweight.measure.safety_statistics import require_counts
from featherweight.verbs.safety_evidence import FLIPS

SAFETY = "safety"
RESULTS = ("result.json", "verdict.json")
"""Files beside a ledger that say how many receipts it has, and which is the last."""


def verify_ledger(run: str | Path) -> list[Receipt]:
    """The receipts of a run, if their chain holds and ends where the run says.

    Raises:
        CheckpointError: there is no ledger; LedgerError: names the first bad line.
    """
    folder = Path(run)
    path = folder if folder.suffix == ".jsonl" else folder / "ledger.jsonl"
    if not path.is_file():
        raise CheckpointError(str(run), "has no ledger", "give the folder of a run, or a ledger.jsonl")
    receipts = read_ledger(path)
    for result in (path.parent / name for name in RESULTS):
        if result.is_file():
            facts = json.loads(result.read_text(encoding="utf-8"))
            _require_end(path, receipts, facts["receipts"])
            if "counts" in facts:
                require_counts(receipts, facts["counts"], str(result))
            receipts += _safety_receipts(path.parent / SAFETY, facts.get("content", {}).get("children", []))
    return receipts


def _safety_receipts(folder: Path, children: Sequence[Mapping[str, Any]]) -> list[Receipt]:
    """The receipts of all answers beside a verdict; each chain ends where the verdict says."""
    chains = {path: read_ledger(path) for path in sorted(folder.rglob("*.jsonl")) if path.name != FLIPS}
    for number, child in enumerate(children, start=1):
        own = folder / str(number) if len(children) > 1 else folder
        for section in child["sections"]:
            for named in section["facts"].get("receipts", {}).values():
                _require_last(chains, (own / named["path"]).resolve(), named["head"])
    return [receipt for chain in chains.values() for receipt in chain]


def _require_last(chains: Mapping[Path, Sequence[Receipt]], path: Path, head: str) -> None:
    chain = next((found for known, found in chains.items() if known.resolve() == path), None)
    if not chain:
        raise LedgerError(str(path), "is missing", "restore it from a copy, or run again")
    if chain[-1].digest != head:
        raise LedgerError(f"{path} line {len(chain)}", "is not the receipt that the run ended with", "restore it")


def _require_end(path: Path, receipts: list[Receipt], expected: dict[str, int | str]) -> None:
    """Refuses a chain that was cut off or that goes another way."""
    count = int(expected["count"])
    if len(receipts) < count:
        raise LedgerError(
            f"{path} line {len(receipts) + 1}", f"is missing: the run wrote {count} receipts",
            "restore the ledger from a copy, or run again",
        )  # fmt: skip
    if count and receipts[count - 1].digest != expected["head"]:
        raise LedgerError(f"{path} line {count}", "is not the receipt that the run ended with", "restore the ledger")
