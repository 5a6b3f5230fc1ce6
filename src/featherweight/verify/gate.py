"""The quality gate: is the child as good as a floor says, beyond what chance explains?

Three answers. "pass": the whole 95 % interval of parent perplexity / child perplexity lies at or above the floor.
"fail": it lies below. "cannot tell": the floor is inside it; more text would decide.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from featherweight.measure.quality import Quality


class Verdict(enum.StrEnum):
    """What a gate says."""

    PASS = "pass"
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"

    @property
    def exit_status(self) -> int:
        """0 yes, 1 no, 2 cannot tell."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.CANNOT_TELL: 2}[self]


@dataclass(frozen=True)
class Check:
    """One line of a verification: what was asked, what was found, the verdict and its reason."""

    name: str
    asked: str
    found: str
    verdict: Verdict
    reason: str


def judged(name: str, asked: str, found: str, good: bool, bad: bool, limit: str = "floor", of: str = "") -> Check:
    """A check of an interval against a limit.

    Args:
        name: of the check.
        asked: in words, for the table.
        found: in words, for the table.
        good: all of the interval is on the good side.
        bad: all of it is on the bad side.
        limit: what the limit is called.
        of: what the interval comes from.
    """
    if good:
        return Check(name, asked, found, Verdict.PASS, f"the whole interval is within the {limit}")
    if bad:
        return Check(name, asked, found, Verdict.FAIL, f"the whole interval is beyond the {limit}")
    return Check(name, asked, found, Verdict.CANNOT_TELL, f"the {limit} is inside the interval{of and f' of {of}'}")


def quality_check(quality: Quality, floor: float, name: str = "quality") -> Check:
    """The child's perplexity ratio against a floor."""
    low, high = quality.ratio_interval
    found = f"{quality.ratio:.1%} ({low:.1%} to {high:.1%})"
    documents = f"{quality.documents} documents"
    return judged(name, f"at least {floor:.1%}", found, low >= floor, high < floor, of=documents)


def tokenizer_check(same: bool) -> Check:
    """Whether both models read text as the same tokens; without that, nothing else can be compared."""
    verdict = Verdict.PASS if same else Verdict.FAIL
    reason = "equal token ids on the test strings" if same else "token ids differ on the test strings"
    return Check("tokenizer", "the parent's", "the same" if same else "another", verdict, reason)


def overall(checks: list[Check]) -> Verdict:
    """Fail if one fails, else cannot tell if one cannot, else pass."""
    verdicts = {check.verdict for check in checks}
    for verdict in (Verdict.FAIL, Verdict.CANNOT_TELL):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS
