"""The generation part of a verification: does the child write answers that are none, where its parent does not?

Both models answer the same conversations greedily; `measure.defects` says what is wrong with the form of each answer.
Only what is new counts: a defect that the parent has on the same prompt, or on as many others, is the parent's. An
empty answer or a broken template fails at the first new one. Repetition and missing ends of turn come and go with near
ties of a greedy choice: they fail when new ones are both more than a tolerance and more than chance explains (McNemar's
exact test, 5 %), and cannot be told when only the first is so. An answer that did not come is never a good one.

This looks for breakage and certifies no rate: eight prompts without a new defect leave open a third of all prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.cases import Case
from featherweight.core.rates import wilson
from featherweight.measure.answers import Answer
from featherweight.measure.defects import Defect, defects
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.paired_statistics import mcnemar
from featherweight.verify.section import Section

TOLERANCE = 0.125  # one new one of eight prompts
_LEVEL = 0.05
_AT_ONCE = (Defect.EMPTY, Defect.TEMPLATE)
_NAMES = {
    Defect.EMPTY: "empty answers", Defect.TEMPLATE: "template broken", Defect.REPETITION: "repetition",
    Defect.UNENDED: "turn not ended",
}  # fmt: skip


@dataclass(frozen=True)
class AnsweredCase:
    """One conversation with both answers and what is wrong with them."""

    case: Case
    parent: Answer
    child: Answer
    parent_defects: frozenset[Defect]
    child_defects: frozenset[Defect]

    @property
    def came(self) -> bool:
        """Whether both models answered."""
        return not (self.parent.error or self.child.error)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without times."""
        return {
            "id": self.case.id, "digest": self.case.digest, "asked": self.case.messages[-1]["content"],
            "parent": answer_facts(self.parent, self.parent_defects),
            "child": answer_facts(self.child, self.child_defects),
        }  # fmt: skip


def answer_facts(answer: Answer, found: Iterable[Defect]) -> dict[str, Any]:
    """An answer with its defects, as plain JSON values without times."""
    return {
        "text": answer.text, "error": answer.error, "ended": answer.ended, "tokens": answer.tokens,
        "special": list(answer.special), "defects": sorted(map(str, found)),
    }  # fmt: skip


def answered_cases(
    cases: Sequence[Case], parent: Sequence[Answer], child: Sequence[Answer], special: Sequence[str] = ()
) -> list[AnsweredCase]:
    """Cases with the answers of both models, in their order."""
    return [
        AnsweredCase(case, one, other, _defects(one, special), _defects(other, special))
        for case, one, other in zip(cases, parent, child, strict=True)
    ]


def _defects(answer: Answer, special: Sequence[str]) -> frozenset[Defect]:
    return frozenset() if answer.error else defects(answer, special)


def generation_section(
    answered: Sequence[AnsweredCase], tolerance: float = TOLERANCE, name: str = "generation"
) -> Section:
    """The checks of one child.

    Args:
        answered: cases with both answers.
        tolerance: share of prompts on which repetition or a missing end may be new without a word.
        name: of the section.
    """
    came = [each for each in answered if each.came]
    checks = [_came_check(answered), *(_defect_check(kind, came, tolerance) for kind in Defect)]
    counts = {str(kind): _counts(kind, came) for kind in Defect}
    facts = {"tolerance": tolerance, "defects": counts, "cases": [each.to_dict() for each in answered]}
    return Section(name, tuple(checks), facts)


def _came_check(answered: Sequence[AnsweredCase]) -> Check:
    missing = [each for each in answered if not each.came]
    found = f"{len(answered) - len(missing)} of {len(answered)}"
    if not missing:
        return Check("answers", "one a prompt", found, Verdict.PASS, "both models answered every prompt")
    first = missing[0]
    who, error = ("child", first.child.error) if first.child.error else ("parent", first.parent.error)
    reason = f"{len(missing)} did not come; {first.case.id}, of the {who}: {error}"
    return Check("answers", "one a prompt", found, Verdict.CANNOT_TELL, reason)


def _counts(kind: Defect, came: Sequence[AnsweredCase]) -> dict[str, int]:
    pairs = [(kind in each.parent_defects, kind in each.child_defects) for each in came]
    return {
        "prompts": len(pairs), "parent": sum(one for one, _ in pairs), "child": sum(other for _, other in pairs),
        "new": pairs.count((False, True)), "gone": pairs.count((True, False)),
    }  # fmt: skip


def _defect_check(kind: Defect, came: Sequence[AnsweredCase], tolerance: float) -> Check:
    counts = _counts(kind, came)
    prompts, new, gone = counts["prompts"], counts["new"], counts["gone"]
    verdict, reason = _judged(kind, prompts, new, gone, tolerance)
    found = f"{counts['child']} of {prompts}, parent {counts['parent']}, new {new}"
    return Check(_NAMES[kind], "none that is new", found, verdict, reason)


def _judged(kind: Defect, prompts: int, new: int, gone: int, tolerance: float) -> tuple[Verdict, str]:
    if not prompts:
        return Verdict.CANNOT_TELL, "no prompt has two answers"
    if not new:
        return Verdict.PASS, f"none is new; up to {wilson(0, prompts)[1]:.0%} of all prompts could have one unseen"
    if new <= gone:
        return Verdict.PASS, f"{new} new, and {gone} of the parent's gone"
    if kind in _AT_ONCE:
        return Verdict.FAIL, f"on {new} of {prompts} prompts, where the parent has none"
    share, chance = (new - gone) / prompts, mcnemar(new, gone)
    more = f"{new} new and {gone} gone of {prompts}"
    if share <= tolerance:
        return Verdict.PASS, f"{more}, within {tolerance:.1%}"
    if chance <= _LEVEL:
        return Verdict.FAIL, f"{more}: more than {tolerance:.1%}, and more than chance explains (p = {chance:.3f})"
    return Verdict.CANNOT_TELL, f"{more}: chance explains it as well (p = {chance:.3f}); more prompts would decide"
