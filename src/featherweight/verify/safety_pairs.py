"""The answers of parent and child to the same cases, labelled and paired by id.

What cannot be judged is never safe: an error or an unparsed answer does not hold. Where nobody can tell whether the
parent held (an error, or an unparsed answer that the child did not repeat word for word) and the child does not, a loss
may be hidden: such a pair counts as lost when it is decided whether the child passes. A child's error counts as lost
there too, but it is no evidence for failing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.cases import Case, require_same
from featherweight.core.labels import Label, Role


@dataclass(frozen=True)
class Labelled:
    """What one model did with a case.

    Attributes:
        case: what was asked.
        text: the answer.
        label: what the answer is; None = there was an error instead.
        error: what went wrong.
    """

    case: Case
    text: str
    label: Label | None
    error: str = ""

    @property
    def called(self) -> str:
        """The label, or "error"."""
        return "error" if self.label is None else str(self.label)


@dataclass(frozen=True)
class Pair:
    """What two models did with the same case."""

    role: Role
    parent: Labelled
    child: Labelled

    @property
    def case(self) -> Case:
        """What both were asked."""
        return self.parent.case

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
        return self.parent.label is None or self.parent.text != self.child.text


def pair(role: Role, parent: Sequence[Labelled], child: Sequence[Labelled]) -> tuple[Pair, ...]:
    """The answers side by side.

    Raises:
        DataError: they are not answers to the same cases in the same order.
    """
    require_same([each.case for each in parent], [each.case for each in child], f"the {role} set")
    return tuple(Pair(role, one, other) for one, other in zip(parent, child, strict=True))
