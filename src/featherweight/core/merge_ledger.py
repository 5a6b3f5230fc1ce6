"""The ledger of a merged folder: what was merged, in which order and how, as a hash chain that a rebuild starts from.

`ledger.jsonl` holds a line for the method and its base, one for each delta in order, and one for the result with the
coefficients, the Gram matrix and the fingerprint; further lines say what was subtracted later, which deltas lie in the
folder, and where the folder comes from. Where things lie on this machine is kept beside the hashed part: a delta is
known by its digest. `merge.json` says how many lines there are and how the last one hashes, so that a shortened ledger
shows as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.deltas import Delta
from featherweight.core.errors import CheckpointError, LedgerError, MergeError
from featherweight.core.receipt import Ledger, Receipt, read_ledger, versions
from featherweight.core.user_file import read_json_object

LEDGER, FACTS, KEPT = "ledger.jsonl", "merge.json", "deltas"
_MEND = "restore the folder from a copy, or merge again"


@dataclass(frozen=True)
class DeltaRecord:
    """One delta as the ledger knows it.

    Attributes:
        name, kind, digest: as of `Delta`.
        nbytes: stored bytes of the source.
        norm: of the delta.
        fields: the technique's values for this model, such as its weight.
        path: where it was; anything may have happened since.
        text: digest of its validation text, where it had one.
    """

    name: str
    kind: str
    digest: str
    nbytes: int
    norm: float
    fields: Mapping[str, Any]
    path: str
    text: str = ""


@dataclass(frozen=True)
class MergeRecord:
    """What a ledger says.

    Attributes:
        folder: of the merged model.
        method: name of the technique.
        fields: its fields that are no model's own.
        seed: of its random choices.
        base: fingerprint of the base.
        base_path: where it was.
        deltas: in order; those that were subtracted are among them.
        weights: coefficients that were used.
        fingerprint: of the model as it is now.
        subtracted: names of deltas that were subtracted.
        kept: digests of the files in the folder that hold deltas, by delta.
        head: hash of the last line.
    """

    folder: Path
    method: str
    fields: Mapping[str, Any]
    seed: int
    base: str
    base_path: str
    deltas: tuple[DeltaRecord, ...]
    weights: tuple[float, ...]
    fingerprint: str
    subtracted: tuple[str, ...]
    kept: Mapping[str, Mapping[str, str]]
    head: str

    @property
    def digests(self) -> dict[str, str]:
        """Of the deltas, by name."""
        return {each.name: each.digest for each in self.deltas}

    def index(self, name: str) -> int:
        """Position of the delta that a person names: by its name, its path, or the beginning of its digest.

        Raises:
            MergeError: there is none, or it was subtracted already.
        """
        for position, each in enumerate(self.deltas):
            if name in (each.name, each.path) or (len(name) >= 8 and each.digest.startswith(name)):
                if each.name in self.subtracted:
                    raise MergeError(
                        f"{self.folder}, {name}", "was subtracted already", "name another model, or use --mode rebuild"
                    )
                return position
        known = ", ".join(each.name for each in self.deltas) or "none"
        raise MergeError(f"{self.folder}, {name}", "is no model that was merged into it", f"it holds {known}")


def write_merge(
    folder: Path,
    method: str,
    fields: Mapping[str, Any],
    seed: int,
    base: tuple[str, int, str],
    deltas: Sequence[tuple[Delta, float, Mapping[str, Any], Mapping[str, str]]],
    result: Mapping[str, Any],
    volatile: Mapping[str, Any],
) -> Ledger:
    """Starts the ledger of a merged folder.

    Args:
        folder: an existing one, without a ledger.
        method: name of the technique.
        fields: those that are no model's own.
        seed: of its random choices.
        base: fingerprint, bytes and where it lies.
        deltas: each with its norm, its own fields (plain JSON), and where it and its files lie.
        result: fingerprint, weights, Gram matrix and what else is to be hashed.
        volatile: of the result: seconds, memory.
    """
    ledger = Ledger(folder / LEDGER)
    fingerprint, nbytes, path = base
    ledger.append(
        {
            "step": "merge", "method": method, "fields": dict(fields), "seed": seed, "base": fingerprint,
            "bytes": nbytes, "versions": versions(),
        },
        {"path": path},
    )  # fmt: skip
    for position, (delta, norm, own, places) in enumerate(deltas):
        ledger.append(
            {
                "step": "delta", "position": position, "name": delta.name, "kind": delta.kind, "digest": delta.digest,
                "bytes": delta.nbytes, "norm": norm, "fields": dict(own),
            },
            dict(places),
        )  # fmt: skip
    ledger.append({"step": "merged", "deltas": len(deltas), **result}, volatile)
    return ledger


def seal(ledger: Ledger, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes `merge.json` beside a ledger: facts for people, and the number and the last hash of its lines."""
    receipts = list(ledger)
    whole = {**facts, "receipts": {"count": len(receipts), "head": receipts[-1].digest}}
    (ledger.path.parent / FACTS).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return whole


def read_merge(folder: Path) -> MergeRecord:
    """What the ledger of a merged folder says, if it holds.

    Raises:
        MergeError: the folder was not merged here.
        LedgerError: a line was changed, removed, added or moved; it is named.
    """
    path = folder / LEDGER
    if not path.is_file():
        raise MergeError(str(folder), f"was not merged here: it has no {LEDGER}", "give a folder that merge wrote")
    receipts = read_ledger(path)
    _require_sealed(folder, path, receipts)
    steps = [str(each.content.get("step")) for each in receipts]
    if not steps or steps[0] != "merge":
        raise MergeError(str(path), "is not the ledger of a merge", "give a folder that merge wrote")
    count = steps.count("delta")
    expected = ["merge", *["delta"] * count, "merged"]
    for number, wanted in enumerate(expected):
        if number >= len(steps) or steps[number] != wanted:
            raise LedgerError(f"{path} line {number + 1}", f"is missing: here belongs the line {wanted!r}", _MEND)
    return _record(folder, receipts, count)


def _require_sealed(folder: Path, path: Path, receipts: Sequence[Receipt]) -> None:
    """Compares with what `merge.json` says of the ledger."""
    if not (folder / FACTS).is_file():
        raise LedgerError(str(folder), f"has lost its {FACTS}, which says how long the ledger is", _MEND)
    wanted = read_json_object(folder / FACTS, CheckpointError, _MEND).get("receipts", {})
    count, head = int(wanted.get("count", 0)), wanted.get("head")
    if len(receipts) < count:
        raise LedgerError(f"{path} line {len(receipts) + 1}", f"is missing: the merge wrote {count} lines", _MEND)
    if len(receipts) > count or not receipts or receipts[-1].digest != head:
        raise LedgerError(f"{path} line {len(receipts)}", "is not the line that the ledger ended with", _MEND)


def _record(folder: Path, receipts: Sequence[Receipt], count: int) -> MergeRecord:
    first, result = receipts[0], receipts[count + 1].content
    later = [each.content for each in receipts[count + 2 :]]
    subtracted = [each for each in later if each["step"] == "subtracted"]
    kept: dict[str, Any] = next((dict(each["files"]) for each in later if each["step"] == "kept"), {})
    return MergeRecord(
        folder=folder,
        method=first.content["method"],
        fields=first.content["fields"],
        seed=int(first.content["seed"]),
        base=first.content["base"],
        base_path=str(first.volatile.get("path", "")),
        deltas=tuple(_delta(each) for each in receipts[1 : count + 1]),
        weights=tuple(result["weights"]),
        fingerprint=(subtracted[-1] if subtracted else result)["fingerprint"],
        subtracted=tuple(name for each in subtracted for name in each["names"]),
        kept=kept,
        head=receipts[-1].digest,
    )


def _delta(receipt: Receipt) -> DeltaRecord:
    content, volatile = receipt.content, receipt.volatile
    own = {
        name: volatile.get(name, value) for name, value in content["fields"].items()
    }  # a file by its digest, or path
    return DeltaRecord(
        content["name"], content["kind"], content["digest"], int(content["bytes"]), float(content["norm"]), own,
        str(volatile.get("path", "")), str(content["fields"].get("validation", "")),
    )  # fmt: skip
