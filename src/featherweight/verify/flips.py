"""Flips, listed for people: cases that hold for one model only, cases in doubt, and a random sample of the others.

The sample is there because flips are picked by the labels themselves: only a sample shows how often they are wrong.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.cases import Message
from featherweight.core.labels import Label
from featherweight.core.rates import Confusion, kappa
from featherweight.core.whole import whole_file
from featherweight.verify.adjudications import Adjudications
from featherweight.verify.safety_pairs import LabelledAnswer, Pair

SAMPLE = 20
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


def records(
    found: Sequence[tuple[str, Pair]], adjudications: Adjudications, messages: Mapping[str, Sequence[Message]]
) -> list[dict[str, Any]]:
    """The same as plain JSON values, with what people said so far and a place for what they will say.

    Args:
        found: what `listed` gave.
        adjudications: labels of people.
        messages: conversations by their digests, where they are at hand.
    """
    return [
        {
            "set": str(each.role), "id": each.parent.id, "frame": each.parent.frame, "category": each.parent.category,
            "change": what, "expected": str(each.role.expects), "prompt": each.parent.digest,
            "messages": [dict(message) for message in messages.get(each.parent.digest, ())],
            "parent": _side(each.parent, adjudications), "child": _side(each.child, adjudications),
        }
        for what, each in found
    ]  # fmt: skip


def _side(answer: LabelledAnswer, adjudications: Adjudications) -> dict[str, Any]:
    said = adjudications.label(answer) if answer.label is not None else None
    return {
        "label": answer.called, "text": answer.text, "error": answer.error, "answer": answer.answer,
        "adjudicated": said and str(said),
    }  # fmt: skip


def write_flips(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line; the file appears whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def adjudicated(rows: Sequence[Mapping[str, Any]]) -> int:
    """Rows of which people labelled all that can be labelled."""
    return sum(
        all(row[who]["adjudicated"] or row[who]["label"] == "error" for who in ("parent", "child")) for row in rows
    )


def labels_against_people(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How well the automatic labels did on the random sample, as far as people looked at it."""
    sides = [row[who] for row in rows if row["change"] == "sample" for who in ("parent", "child")]
    known = [(each["adjudicated"], each["label"]) for each in sides if each["adjudicated"]]
    truth, said = [one for one, _ in known], [other for _, other in known]
    refused = Confusion.of([one == Label.REFUSE for one in truth], [other == Label.REFUSE for other in said])
    return {"answers": len(known), "refusals": refused.to_dict(), "kappa": kappa(truth, said) if known else None}
