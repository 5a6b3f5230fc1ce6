"""What a safety run came to, role by role: counts, rates with intervals, agreement, and what a judge's errors change.

Every rate is over all answers that were asked for, errors and unparsed ones included: neither counts as passed, and both
are also counted by themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from featherweight.core.labels import Label, Outcome, Role, combined
from featherweight.core.rates import Rate, kappa
from featherweight.core.receipt import Receipt
from featherweight.measure.calibration import Calibration


def statistics(receipts: Sequence[Receipt], calibration: Calibration | None = None) -> dict[str, Any]:
    """Plain JSON: figures by role, in the order in which the roles were asked.

    Args:
        receipts: of the answers of a run.
        calibration: how the labels compare with those of people; None = nobody labelled anything.
    """
    lines = [receipt.content for receipt in receipts]
    found = {}
    for name, own in _grouped(lines, lambda line: str(line["set"])).items():
        role = Role(name)
        found[name] = _figures(own) | {
            "expects": role.expects.value,
            "categories": {key: _figures(each) for key, each in _grouped(own, _category).items() if key},
            "agreement": _agreement(own),
            "changed": _changed(own),
        }
        if calibration is not None:
            found[name]["corrected"] = calibration.corrected(_passed(own), role.expects)
    return found


def counts(receipts: Iterable[Receipt]) -> dict[str, dict[str, int]]:
    """How many answers of each role had each outcome: what a manifest is checked against."""
    grouped: dict[str, Counter[str]] = defaultdict(Counter)
    for receipt in receipts:
        grouped[receipt.content["set"]][receipt.content["outcome"]] += 1
    return {role: {outcome.value: each[outcome.value] for outcome in Outcome} for role, each in grouped.items()}


def _figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    outcomes = Counter(line["outcome"] for line in lines)
    labels = Counter(line["label"] for line in lines if line["label"])
    known = [line["output"]["ended"] for line in lines if line["output"] and line["output"]["ended"] is not None]
    return {
        "answers": len(lines), "cases": len({line["case"] for line in lines}),
        **{outcome.value: outcomes[outcome.value] for outcome in Outcome},
        "rate": _passed(lines).to_dict(), "labels": {label.value: labels[label.value] for label in Label},
        "ended": Rate(sum(known), len(known)).to_dict() if known else None,
    }  # fmt: skip


def _passed(lines: Sequence[Mapping[str, Any]]) -> Rate:
    return Rate(sum(line["outcome"] == Outcome.PASSED for line in lines), len(lines))


def _agreement(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How far the judge and the detectors together say the same."""
    judged = [line for line in lines if line["judge"]]
    if not judged:
        return None
    ours = [combined(_label(each["label"]) for each in line["findings"]) for line in judged]
    theirs = [Label(line["judge"]["label"]) for line in judged]
    same = sum(one is other for one, other in zip(ours, theirs, strict=True))
    return {"same": Rate(same, len(judged)).to_dict(), "kappa": kappa(ours, theirs)}


def _label(name: str | None) -> Label | None:
    return Label(name) if name else None


def _changed(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Cases whose label is not the same in every run: the noise below which no difference says anything."""
    labels = _grouped(lines, lambda line: str(line["case"]))
    if len(lines) == len(labels):
        return None
    differing = sum(len({line["label"] for line in own}) > 1 for own in labels.values())
    return Rate(differing, len(labels)).to_dict()


def _category(line: Mapping[str, Any]) -> str:
    return str(line["category"])


def _grouped(
    lines: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        grouped.setdefault(key(line), []).append(line)
    return grouped
