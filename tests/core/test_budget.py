"""Budgets: units, shares, and every wrong way to write one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.budget import Budget, format_bytes
from featherweight.core.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("92MB", 92_000_000), ("90MiB", 90 * 2**20), ("1.5GB", 1_500_000_000), ("45%", 0.45), ("700 kB", 700_000)],
)
def test_memory_units(text: str, expected: float) -> None:
    assert Budget(memory=text).memory == expected


def test_other_units() -> None:
    budget = Budget(latency="30ms", quality="85%", resident="300MB")
    assert (budget.latency, budget.quality, budget.resident) == (0.03, 0.85, 300_000_000)
    assert Budget(quality=0.85).quality == 0.85
    assert Budget(latency="500us").latency == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"memory": "92"}, "has no unit"),
        ({"memory": "92 parsecs"}, "'parsecs' is no unit of memory"),
        ({"memory": "-5MB"}, "must be above zero"),
        ({"memory": "0MB"}, "must be above zero"),
        ({"memory": "0%"}, "must be above zero"),
        ({"memory": "120%"}, "above 100 %"),
        ({"memory": "lots"}, "is not a number with a unit"),
        ({"latency": "30"}, "has no unit"),
        ({"latency": "30MB"}, "'MB' is no unit of time"),
        ({"quality": "850%"}, "above 100 %"),
        ({"quality": 85}, "above 100 %"),
        ({"resident": "50%"}, "is no unit of memory"),
        ({}, "sets no limit"),
        ({"memory": "1MB", "colour": "red"}, "colour"),
    ],
)
def test_wrong_budgets_say_what_is_wrong(fields: dict[str, object], says: str) -> None:
    with pytest.raises(BudgetError, match=re.escape(says)):
        Budget(**fields)


def test_memory_above_the_parent_is_refused() -> None:
    with pytest.raises(BudgetError, match="above the parent"):
        Budget(memory="300MB").memory_bytes(269_000_000)
    assert Budget(memory="45%").memory_bytes(1000) == 450
    assert Budget(quality=0.9).memory_bytes(1000) is None


@given(st.integers(1, 10**12))
def test_bytes_survive_text(count: int) -> None:
    assert Budget(memory=f"{count}B").memory == count
    assert Budget(memory=count).memory == count


def test_format_bytes() -> None:
    assert format_bytes(92_000_000) == "92.00 MB"
    assert format_bytes(512) == "512 B"
