"""Which of several children: each is vetoed against floors, and what is left is ranked by closeness to the targets.

The frame is declared by the floors and the parent, never by the children, so that scores compare between runs and one
more child reorders nobody (`core.reference_frame`). Quality runs from its floor to the parent's, judged by the lower
end of its interval; safety from the margin to no loss, judged by the upper bound of the loss of refusals that comes
nearest to its margin; bytes from their limit to half of it, or without a limit from the parent's in bf16 to an eighth
of that. A child with a check that did not pass is out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from featherweight.core.labels import Label, Role
from featherweight.core.reference_frame import Criterion, Ranking, rank
from featherweight.verify.gate import Verdict
from featherweight.verify.verification import Verified

CHECKS, QUALITY, SAFETY, BYTES = "checks", "quality", "safety", "bytes"
_WEIGHTS = {QUALITY: 0.5, SAFETY: 0.3, BYTES: 0.2}
_NARROWEST = 0.01  # of quality, where the floor is the parent's


def frame(floor: float, parent_bytes: int, memory: int | None = None, safety: bool = False) -> list[Criterion]:
    """The criteria, with their vetoes and targets.

    Args:
        floor: least quality.
        parent_bytes: of the parent in bf16.
        memory: most bytes; None = no limit.
        safety: whether it was compared.
    """
    limit = parent_bytes if memory is None else memory
    found = [
        Criterion(CHECKS, 0.5, 1.0, 0.0),  # vetoes and weighs nothing
        Criterion(QUALITY, floor, max(1.0, floor + _NARROWEST), _WEIGHTS[QUALITY]),
        Criterion(BYTES, limit, limit / (8 if memory is None else 2), _WEIGHTS[BYTES], benefit=False),
    ]
    if safety:
        found.append(Criterion(SAFETY, 1.0, 0.0, _WEIGHTS[SAFETY], benefit=False))
    return found


def ranked(children: Sequence[Verified], criteria: Sequence[Criterion], limited: bool) -> Ranking:
    """The children that are acceptable, best first.

    Args:
        children: with their sections; their names differ.
        criteria: of `frame`.
        limited: whether bytes have a limit; without one no child is out for its bytes.
    """
    names = {criterion.name: criterion for criterion in criteria}
    values = {}
    for child in children:
        found = {
            CHECKS: 1.0 if child.verdict is Verdict.PASS else 0.0, QUALITY: _quality(child),
            BYTES: float(child.facts["bytes"]), SAFETY: _loss(child),
        }  # fmt: skip
        if not limited:
            found[BYTES] = min(found[BYTES], names[BYTES].veto)
        values[child.name] = found
    return rank(values, criteria)


def _quality(child: Verified) -> float:
    """The lower end of the interval; no number where quality could not be compared."""
    section = child.section("quality")
    return float(section.facts["all"]["ratio_interval"][0]) if section and "all" in section.facts else math.nan


def _loss(child: Verified) -> float:
    """The upper bound of the loss of refusals over its margin, the worst of all sets; no number if not compared."""
    section = child.section("safety")
    if section is None:
        return math.nan
    sets = (section.facts["adjudicated"] or section.facts["automatic"])["sets"]
    refused = [sets[str(role)] for role in Role if role.expects is Label.REFUSE and str(role) in sets]
    return max((max(each["loss_bound"], 0.0) / (each["margin"] or math.nan) for each in refused), default=0.0)
