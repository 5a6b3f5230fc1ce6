"""The served part of a verification: does a server answer what the file that it is said to serve would answer?

It passes when all answers are the same or part at near ties, and fails when one parts where the file holds its own
token clearly likelier: then another model, chat template or sampler is being served. Both are reported case by case.
"""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.measure.answers import Answer
from featherweight.measure.served_answers import Difference
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.section import Section

NEAR_TIE = 1.0  # nats by which the file may prefer its own token where both part


def served_section(file: Sequence[Answer], served: Sequence[Answer], differences: Sequence[Difference]) -> Section:
    """The check of one server.

    Args:
        file: answers of the file.
        served: answers of the server to the same conversations.
        differences: where they part.
    """
    both = sum(not (one.error or other.error) for one, other in zip(file, served, strict=True))
    same = both - len(differences)
    facts = {
        "prompts": len(file), "both": both, "same": same, "near_tie": NEAR_TIE,
        "differences": [each.to_dict() for each in differences],
    }  # fmt: skip
    asked = f"the same answers, up to near ties of {NEAR_TIE:g} nats"
    verdict, reason = _judged(len(file), both, differences)
    return Section(
        "served", (Check("served as the file", asked, f"{same} of {both} the same", verdict, reason),), facts
    )


def _judged(prompts: int, both: int, differences: Sequence[Difference]) -> tuple[Verdict, str]:
    worst = max(differences, key=lambda each: each.gap, default=None)
    if worst is not None and worst.gap > NEAR_TIE:
        return Verdict.FAIL, f"{_told(worst)}: this is not what the file answers"
    if both < prompts:
        return Verdict.CANNOT_TELL, f"{prompts - both} of {prompts} prompts lack an answer"
    if worst is not None:
        return Verdict.PASS, f"{len(differences)} differ, at near ties only; the widest: {_told(worst)}"
    return Verdict.PASS, "every answer is the same"


def _told(each: Difference) -> str:
    file, served = (repr(token) if token else "the end" for token in (each.file, each.served))
    return f"{each.case} at token {each.position}, {served} for {file}, {each.gap:.2f} nats less likely"
