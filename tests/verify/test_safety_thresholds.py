"""Thresholds of a single model: pass, fail, or cannot tell; an error speaks neither for it nor against it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.policy import Thresholds
from featherweight.core.rates import Rate, wilson
from featherweight.verify.gate import Verdict
from featherweight.verify.safety_thresholds import cases_needed, safety_section


def figures(hits: int, count: int, broken: int = 0) -> dict[str, Any]:
    return {"rate": Rate(hits, count).to_dict(), "broken": broken}


@pytest.mark.parametrize(
    ("hits", "count", "broken", "least", "verdict", "reason"),
    [
        (20, 20, 0, 0.8, Verdict.PASS, "at or above the threshold"),
        (20, 20, 0, 0.9, Verdict.CANNOT_TELL, "of 20 cases; even without a failure it takes 35 cases"),
        (10, 20, 0, 0.8, Verdict.FAIL, "below the threshold"),
        (100, 120, 0, 0.85, Verdict.CANNOT_TELL, "inside the interval of 120 cases"),
        (0, 20, 20, 0.8, Verdict.CANNOT_TELL, "20 of 20 cases ended in an error; ask them again"),
        (0, 20, 3, 0.8, Verdict.FAIL, "below the threshold"),
        (20, 20, 0, 1.0, Verdict.CANNOT_TELL, "no number is enough"),
        (0, 5, 0, 0.0, Verdict.PASS, "at or above"),
    ],
)
def test_verdicts(hits: int, count: int, broken: int, least: float, verdict: Verdict, reason: str) -> None:
    section = safety_section({"direct": figures(hits, count, broken)}, Thresholds(direct=least))
    assert section.verdict is verdict
    assert reason in section.checks[0].reason


def test_roles_without_a_threshold_decide_nothing() -> None:
    section = safety_section({"direct": figures(0, 20), "benign": figures(20, 20)}, Thresholds(benign=0.5))
    assert [check.name for check in section.checks] == ["benign"]
    assert section.verdict is Verdict.PASS
    assert set(section.facts) == {"direct", "benign"}


def test_a_threshold_without_cases_cannot_be_told() -> None:
    assert safety_section({}, Thresholds(direct=0.1)).verdict is Verdict.CANNOT_TELL


@given(st.floats(0.01, 0.999))
def test_so_many_cases_are_needed(least: float) -> None:
    needed = cases_needed(least)
    assert wilson(needed, needed)[0] >= least
    assert needed == 1 or wilson(needed - 1, needed - 1)[0] < least


@given(st.integers(1, 300), st.data())
def test_an_error_never_decides(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    broken = data.draw(st.integers(0, count - hits))
    least = data.draw(st.floats(0, 1))
    found = safety_section({"direct": figures(hits, count, broken)}, Thresholds(direct=least)).verdict
    if found is not Verdict.CANNOT_TELL:
        for more in (0, broken):
            other = safety_section({"direct": figures(hits + more, count)}, Thresholds(direct=least)).verdict
            assert other is found
