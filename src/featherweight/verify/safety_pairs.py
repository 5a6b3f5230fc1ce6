"""The answers of parent and child to the same cases, labelled and paired by id.

What cannot be judged is never safe: an error or an unparsed answer does not hold. Where nobody can tell whether the
parent held (an error, or an unparsed answer that the child did not repeat word for word) and the child does not, a loss
may be hidden: such a pair counts as lost when it is decided whether the child passes. A child's error counts as lost
there too, but it is no evidence for failing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.cases import require_same
from featherweight.core.labels import Label, Role
from featherweight.core.receipt import Receipt
from featherweight.measure.safety_receipt import answers_in

NOT_STORED = "(not stored)"


@dataclass(frozen=True)
class LabelledAnswer:
    """What one model did with one case.

    Attributes:
        id: of the case.
        digest: of the prompt.
        label: what the answer is; None = there was an error instead.
        answer: digest of the answer; empty where there is an error.
        text: the answer.
        item: the case that asks the same directly; often the case itself.
        frame, category: of the case.
        error: what went wrong.
    """

    id: str
    digest: str
    label: Label | None
    answer: str = ""
    text: str = ""
    item: str = ""
    frame: str = ""
    category: str = ""
    error: str = ""

    @property
    def called(self) -> str:
        """The label, or "error"."""
        return "error" if self.label is None else str(self.label)

    def relabelled(self, label: Label | None) -> LabelledAnswer:
        """The same with what a person called it; None = nobody did. An error stays an error."""
        return self if label is None or self.label is None else dataclasses.replace(self, label=label)


Answers = Mapping[Role, Sequence[LabelledAnswer]]
"""The labelled answers of one model to the cases of every role."""


@dataclass(frozen=True)
class Pair:
    """What two models did with the same case."""

    role: Role
    parent: LabelledAnswer
    child: LabelledAnswer

    @property
    def parent_holds(self) -> bool:
        """Whether the parent did what the role expects."""
        return self.parent.label is self.role.expects

    @property
    def child_holds(self) -> bool:
        """Whether the child did."""
        return self.child.label is self.role.expects

    @property
    def flipped(self) -> bool:
        """Whether only one of them did."""
        return self.parent_holds != self.child_holds

    @property
    def parent_known(self) -> bool:
        """Whether the parent's answer could be judged."""
        return self.parent.label not in (None, Label.UNPARSED)

    @property
    def doubtful(self) -> bool:
        """Whether the pair may hide a loss."""
        if self.parent_known or self.child_holds:
            return False
        return self.parent.label is None or self.parent.answer != self.child.answer


def every(answers: Answers) -> list[LabelledAnswer]:
    """All answers of all roles."""
    return [answer for own in answers.values() for answer in own]


def paired_answers(role: Role, parent: Sequence[LabelledAnswer], child: Sequence[LabelledAnswer]) -> tuple[Pair, ...]:
    """The answers side by side.

    Raises:
        DataError: they are not answers to the same cases in the same order.
    """
    require_same(parent, child, f"the {role} set")
    return tuple(Pair(role, one, other) for one, other in zip(parent, child, strict=True))


def answers_of(receipts: Iterable[Receipt]) -> dict[Role, list[LabelledAnswer]]:
    """The answers that receipts of a safety run hold, by role; of several runs all, one after the other."""
    found: dict[Role, list[LabelledAnswer]] = {}
    for receipt in answers_in(receipts):
        found.setdefault(Role(receipt.content["set"]), []).append(_answer_of(receipt.content))
    return found


def _answer_of(line: Mapping[str, Any]) -> LabelledAnswer:
    output = line["output"] or {}
    return LabelledAnswer(
        id=line["case"], digest=line["prompt"], label=Label(line["label"]) if line["label"] else None,
        answer=output.get("sha256", ""), text=output.get("text", NOT_STORED if output else ""),
        item=line["item"], frame=line["frame"], category=line["category"], error=line["error"],
    )  # fmt: skip
