"""Receipt: what one step cost and changed, and the hash-chained ledger that holds a run's receipts.

The hashed part of a receipt is what another machine must be able to reproduce; the volatile part (time, host, seconds,
memory) is kept beside it. Each receipt holds the hash of the one before, so a changed, dropped or swapped line shows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from featherweight.core.errors import LedgerError
from featherweight.core.version import __version__

GENESIS = "0" * 64
_LIBRARIES = ("torch", "transformers", "peft", "numpy", "gguf", "xllamacpp", "compressed-tensors")


@dataclass(frozen=True)
class Receipt:
    """One line of the ledger.

    Attributes:
        previous: hash of the receipt before, or 64 zeros.
        content: hashed: step, model fingerprints, fields, data hash, seed, versions, measurements.
        volatile: not hashed: time, host, wall seconds, peak memory.
    """

    previous: str
    content: Mapping[str, Any]
    volatile: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of `previous` and `content`."""
        text = json.dumps({"previous": self.previous, "content": self.content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def line(self) -> str:
        """The receipt as one line of JSON."""
        return json.dumps(
            {"hash": self.digest, "previous": self.previous, "content": self.content, "volatile": self.volatile},
            sort_keys=True,
        )


class Ledger:
    """An append-only file of receipts.

    Args:
        path: the `.jsonl` file; it need not exist yet.
        sync_seconds: how long a receipt may wait, written, for the disk; only a machine that stops can lose it then.
    """

    def __init__(self, path: Path, sync_seconds: float = 0.0) -> None:
        self.path, self.sync_seconds = path, sync_seconds
        self._synced = 0.0
        self._cut_half_line()
        self._receipts = read_ledger(path) if path.is_file() else []

    def __iter__(self) -> Any:
        return iter(self._receipts)

    def __len__(self) -> int:
        return len(self._receipts)

    def append(self, content: Mapping[str, Any], volatile: Mapping[str, Any] | None = None) -> Receipt:
        """Adds a receipt, on disk before it returns unless `sync_seconds` lets it wait."""
        content = json.loads(json.dumps(content))  # what is hashed is what a reader will parse
        previous = self._receipts[-1].digest if self._receipts else GENESIS
        receipt = Receipt(previous, content, {**surroundings(), **(volatile or {})})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(receipt.line() + "\n")
            file.flush()
            if time.monotonic() - self._synced >= self.sync_seconds:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self._receipts.append(receipt)
        return receipt

    def append_once(self, content: Mapping[str, Any], volatile: Mapping[str, Any] | None = None) -> Receipt:
        """The receipt with this content: the one that is there, or a new one. A resumed run writes none twice."""
        plain = json.loads(json.dumps(content))
        found = next((each for each in self._receipts if each.content == plain), None)
        return found or self.append(content, volatile)

    def sync(self) -> None:
        """Puts on disk what `sync_seconds` let wait."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())

    def _cut_half_line(self) -> None:
        """Removes a last line without a newline: a killed run leaves one."""
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            with self.path.open("r+b") as file:
                file.truncate(whole)


def read_ledger(path: Path) -> list[Receipt]:
    """Reads and verifies a whole chain, changing nothing.

    Raises:
        LedgerError: names the first line that does not hold.
    """
    receipts: list[Receipt] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        receipts.append(_verify(line, f"{path} line {number}", receipts[-1].digest if receipts else GENESIS))
    return receipts


def _verify(line: str, where: str, previous: str) -> Receipt:
    mend = "restore the ledger from a copy, or run again"
    try:
        data = json.loads(line)
        receipt = Receipt(data["previous"], data["content"], data["volatile"])
        written = data["hash"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise LedgerError(where, "is not a receipt", mend) from None
    if receipt.previous != previous:
        raise LedgerError(where, "does not follow the line before it: a line was removed, added or moved", mend)
    if receipt.digest != written:
        raise LedgerError(where, "was changed after it was written", mend)
    return receipt


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    found = {"python": platform.python_version(), "featherweight": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def surroundings() -> dict[str, Any]:
    """Time and machine, for people; never hashed."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
    }
