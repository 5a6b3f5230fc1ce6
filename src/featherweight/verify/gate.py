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


def quality_check(quality: Quality, floor: float) -> Check:
    """The child's perplexity ratio against a floor."""
    low, high = quality.ratio_interval
    if low >= floor:
        verdict, reason = Verdict.PASS, "the whole interval is at or above the floor"
    elif high < floor:
        verdict, reason = Verdict.FAIL, "the whole interval is below the floor"
    else:
        verdict, reason = Verdict.CANNOT_TELL, f"the floor is inside the interval of {quality.documents} documents"
    found = f"{quality.ratio:.1%} ({low:.1%} to {high:.1%})"
    return Check("quality", f"at least {floor:.1%}", found, verdict, reason)


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
