"""Flips, listed for people: cases that hold for one model only, cases in doubt, and a random sample of the others.

The sample is there because flips are picked by the labels themselves: only a sample shows how often they are wrong.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.cases import Message
from featherweight.core.errors import DataError
from featherweight.core.labels import Label
from featherweight.core.rates import Confusion, kappa
from featherweight.core.user_file import numbered_lines, read_text
from featherweight.core.whole import whole_file
from featherweight.verify.adjudications import Adjudications
from featherweight.verify.safety_pairs import LabelledAnswer, Pair

Row = dict[str, Any]
SAMPLE = 20
SIDES = ("parent", "child")
ERROR = "error"
_ORDER = ("lost", "doubtful", "gained", "sample")


def change_of(each: Pair) -> str:
    """What makes a pair worth looking at; empty = nothing."""
    if each.flipped:
        return "lost" if each.parent_holds else "gained"
    return "doubtful" if each.doubtful else ""


def listed(pairs: Iterable[Pair], seed: int = 0, sample: int = SAMPLE) -> list[tuple[str, Pair]]:
    """Every flip and doubt with what it is, losses first, and a sample of the pairs that are neither."""
    every = [(change_of(each), each) for each in pairs]
    others = [each for what, each in every if not what and each.parent.label and each.child.label]
    chosen = random.Random(seed).sample(others, min(sample, len(others)))
    found = [(what, each) for what, each in every if what] + [("sample", each) for each in chosen]
    return sorted(found, key=lambda each: _ORDER.index(each[0]))


def records(found: Sequence[tuple[str, Pair]], messages: Mapping[str, Sequence[Message]]) -> list[Row]:
    """The same as plain JSON values, with a place for what people say.

    Args:
        found: what `listed` gave.
        messages: conversations by their digests, where they are at hand.
    """
    return [
        {
            "set": str(each.role), "id": each.parent.id, "frame": each.parent.frame, "category": each.parent.category,
            "change": what, "expected": str(each.role.expects), "prompt": each.parent.digest,
            "messages": [dict(message) for message in messages.get(each.parent.digest, ())],
            "parent": _side(each.parent), "child": _side(each.child),
        }
        for what, each in found
    ]  # fmt: skip


def _side(answer: LabelledAnswer) -> dict[str, Any]:
    return {
        "label": answer.called, "text": answer.text, "error": answer.error, "answer": answer.answer,
        "adjudicated": None,
    }  # fmt: skip


def with_labels(rows: Sequence[Row], people: Adjudications) -> list[Row]:
    """The rows with what people said so far; an error stays without."""
    found = []
    for row in rows:
        sides = {who: dict(row[who]) for who in SIDES}
        for side in sides.values():
            label = people.labels.get((row["prompt"], side["answer"])) if side["label"] != ERROR else None
            side["adjudicated"] = label and str(label)
        found.append({**row, **sides})
    return found


def read_flips(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        DataError: a line is none.
    """
    rows: list[Row] = []
    for number, line in numbered_lines(read_text(path, str(path), "give the folder of a comparison")):
        try:
            row = json.loads(line)
            _ = [row[key] for key in ("set", "id", "prompt")], [row[who]["answer"] for who in SIDES]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(f"{path} line {number}", "is no flip", "restore the file, or compare again") from None
        rows.append(row)
    return rows


def write_flips(path: Path, rows: Sequence[Row]) -> None:
    """One JSON object a line; the file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def flips_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """How many rows there are of each kind, how many people looked at, how the labels did, and the rows."""
    return {
        "count": dict(Counter(row["change"] for row in rows)), "adjudicated": sum(map(settled, rows)),
        "looked_at": sum(settled(row) for row in rows if row["change"] != "sample"),
        "labels": labels_against_people(rows), "rows": list(rows),
    }  # fmt: skip


def settled(row: Row) -> bool:
    """Whether people labelled all of a row that can be labelled."""
    return all(row[who]["adjudicated"] or row[who]["label"] == ERROR for who in SIDES)


def labels_against_people(rows: Sequence[Row]) -> dict[str, Any]:
    """How well the automatic labels did on the random sample, as far as people looked at it."""
    sides = [row[who] for row in rows if row["change"] == "sample" for who in SIDES]
    known = [(each["adjudicated"], each["label"]) for each in sides if each["adjudicated"]]
    truth, said = [one for one, _ in known], [other for _, other in known]
    refused = Confusion.of([one == Label.REFUSE for one in truth], [other == Label.REFUSE for other in said])
    return {"answers": len(known), "refusals": refused.to_dict(), "kappa": kappa(truth, said) if known else None}
