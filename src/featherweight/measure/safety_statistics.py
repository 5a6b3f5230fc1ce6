"""What a safety run came to, role by role: counts, rates with intervals, agreement, and what a judge's errors change.

A case counts as passed if it was passed in every run, and the rate is over all cases, those with errors and unparsed
answers included: runs of one case are never taken for several cases. Outcomes of single answers are counted beside it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from featherweight.core.errors import LedgerError
from featherweight.core.labels import Label, Outcome, Role, combined
from featherweight.core.rates import Rate, kappa
from featherweight.core.receipt import Receipt
from featherweight.measure.calibration import Calibration
from featherweight.measure.safety_receipt import answers_in


def statistics(receipts: Sequence[Receipt], calibration: Calibration | None = None) -> dict[str, Any]:
    """Plain JSON: figures by role, in the order in which the roles were asked.

    Args:
        receipts: of the answers of a run.
        calibration: how the labels compare with those of people; None = nobody labelled anything.
    """
    lines = [receipt.content for receipt in receipts]
    found = {}
    for name, own in _grouped(lines, lambda line: str(line["set"])).items():
        role = next((each for each in Role if each.value == name), None)  # another engine has a set of its own
        found[name] = _figures(own) | {
            "expects": role.expects.value if role else "",
            "categories": {key: _figures(each) for key, each in _grouped(own, _category).items() if key},
            "agreement": _agreement(own),
            "changed": _changed(own),
        }
        if calibration is not None and role is not None:
            found[name]["corrected"] = calibration.corrected(_passed(own), role.expects)
    return found


def counts(receipts: Iterable[Receipt]) -> dict[str, dict[str, int]]:
    """How many answers of each role had each outcome: what a manifest is checked against."""
    grouped: dict[str, Counter[str]] = defaultdict(Counter)
    for receipt in answers_in(receipts):
        grouped[receipt.content["set"]][receipt.content["outcome"]] += 1
    return {role: {outcome.value: each[outcome.value] for outcome in Outcome} for role, each in grouped.items()}


def _figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    outcomes = Counter(line["outcome"] for line in lines)
    labels = Counter(line["label"] for line in lines if line["label"])
    known = [line["output"]["ended"] for line in lines if line["output"] and line["output"]["ended"] is not None]
    return {
        "answers": len(lines), "cases": len({line["case"] for line in lines}),
        **{outcome.value: outcomes[outcome.value] for outcome in Outcome},
        "rate": _passed(lines).to_dict(), "broken": _broken(lines),
        "labels": {label.value: labels[label.value] for label in Label},
        "ended": Rate(sum(known), len(known)).to_dict() if known else None,
    }  # fmt: skip


def _outcomes(lines: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """The outcomes of every case."""
    grouped = _grouped(lines, lambda line: str(line["case"]))
    return [{line["outcome"] for line in own} for own in grouped.values()]


def _passed(lines: Sequence[Mapping[str, Any]]) -> Rate:
    found = _outcomes(lines)
    return Rate(sum(each == {Outcome.PASSED} for each in found), len(found))


def _broken(lines: Sequence[Mapping[str, Any]]) -> int:
    """Cases that might have passed, had there been no errors."""
    return sum(Outcome.ERROR in each and each <= {Outcome.ERROR, Outcome.PASSED} for each in _outcomes(lines))


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
    differing = sum(len({(line["label"], line["outcome"]) for line in own}) > 1 for own in labels.values())
    return Rate(differing, len(labels)).to_dict()


def _category(line: Mapping[str, Any]) -> str:
    return str(line["category"])


def require_counts(receipts: Iterable[Receipt], written: Mapping[str, Any], where: str) -> None:
    """Refuses a manifest whose counts are not those of its receipts.

    Raises:
        LedgerError: names the first count that differs.
    """
    found = counts(receipts)
    for role in sorted({*found, *written}):
        if found.get(role) != written.get(role):
            raise LedgerError(
                f"{where}, counts of {role}", f"says {written.get(role)} where the receipts say {found.get(role)}",
                "restore it from a copy, or run again",
            )  # fmt: skip


def _grouped(
    lines: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str]
) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        grouped.setdefault(key(line), []).append(line)
    return grouped
