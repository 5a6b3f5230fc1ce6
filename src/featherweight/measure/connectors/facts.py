"""What identifies a model that is asked, beyond its fingerprint: template, formats, the steps that led to it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featherweight.core.receipt import read_ledger

_LEDGER = "ledger.jsonl"


def text_digest(text: Any) -> str:
    """SHA-256 of a text or of plain JSON; empty for nothing."""
    if not text:
        return ""
    shown = text if isinstance(text, str) else json.dumps(text, sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()


def counted_formats(formats: Iterable[str]) -> dict[str, int]:
    """How many tensors each number format has."""
    return dict(sorted(Counter(formats).items()))


def lineage_of(path: Path, *identities: str) -> list[dict[str, str]]:
    """The steps that made an exported model, oldest first, with the hashes of their receipts.

    Only where the ledger that an export leaves beside it ends with one of these identities: a fingerprint, or the
    digest of a file. Otherwise the ledger is of another model, and there is no lineage to tell.

    Raises:
        LedgerError: the ledger was changed.
    """
    ledger = (path if path.is_dir() else path.parent) / _LEDGER
    receipts = read_ledger(ledger) if ledger.is_file() else []
    last = receipts[-1].content if receipts else {}
    vouched = {last.get("fingerprint"), last.get("after"), *dict(last.get("sha256") or {}).values()}
    if not vouched.intersection(identities):
        return []
    return [
        {"step": str(each.content.get("technique") or each.content.get("step")), "receipt": each.digest}
        for each in receipts
    ]
