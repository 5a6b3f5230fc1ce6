"""Ranking against declared frames: no rank reversal, vetoes, caps, and the worked numbers of the method."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import BudgetError
from featherweight.plan.rank import Criterion, closeness, rank

CRITERIA = [
    Criterion("quality", 0.8, 1.0, 0.7),
    Criterion("memory", 100.0, 50.0, 0.2, benefit=False),
    Criterion("latency", 30.0, 15.0, 0.1, benefit=False),
]
points = st.fixed_dictionaries({
    "quality": st.floats(0.5, 1.1), "memory": st.floats(10, 150), "latency": st.floats(1, 50)
})  # fmt: skip


@given(st.dictionaries(st.text(min_size=1, max_size=3), points, min_size=1, max_size=8), st.data())
def test_the_rest_never_matters(alternatives: dict[str, dict[str, float]], data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(alternatives))))
    everything = dict(rank(alternatives, CRITERIA))
    some = dict(rank({name: alternatives[name] for name in kept}, CRITERIA))
    assert some == {name: score for name, score in everything.items() if name in kept}


@given(points, st.sampled_from(["quality", "memory", "latency"]), st.floats(0, 20))
def test_better_is_never_worse(point: dict[str, float], name: str, change: float) -> None:
    better = {**point, name: point[name] + change / 20 if name == "quality" else point[name] - change}
    before, after = closeness(point, CRITERIA), closeness(better, CRITERIA)
    if before is not None:
        assert after is not None
        assert after >= before - 1e-12


def test_ends_of_the_frame() -> None:
    assert closeness({"quality": 1.0, "memory": 50, "latency": 15}, CRITERIA) == 1.0
    assert closeness({"quality": 2.0, "memory": 1, "latency": 1}, CRITERIA) == 1.0
    assert closeness({"quality": 0.8, "memory": 100, "latency": 30}, CRITERIA) == 0.0


def test_veto() -> None:
    assert closeness({"quality": 0.79, "memory": 50, "latency": 15}, CRITERIA) is None
    assert rank({"a": {"quality": 0.1, "memory": 1, "latency": 1}}, CRITERIA) == []


def test_worked_numbers() -> None:
    assert Criterion("x", 20, 90, 0.25).position(68) * 0.25 == pytest.approx(0.1714, abs=1e-4)
    targets = (0.2143, 0.1912, 0.1519, 0.1786)
    equal = [Criterion(str(i), 0.0, 1.0, 0.25) for i in range(4)]
    score = closeness({str(i): 4 * target for i, target in enumerate(targets)}, equal)
    worst = math.sqrt(sum(target**2 for target in targets))
    best = math.sqrt(sum((0.25 - target) ** 2 for target in targets))
    assert (worst, best) == (pytest.approx(0.3707, abs=1e-4), pytest.approx(0.1395, abs=1e-4))
    assert score == pytest.approx(0.7266, abs=1e-4)


@given(st.lists(st.integers(0, 100).map(lambda value: value / 100), min_size=2, max_size=6, unique=True))
def test_one_criterion_is_a_plain_sort(values: list[float]) -> None:
    alternatives = {str(value): {"q": value} for value in values}
    order = [float(name) for name, _ in rank(alternatives, [Criterion("q", -0.1, 1.1, 1.0)])]
    assert order == sorted(values, reverse=True)


def test_frame_upside_down_is_refused() -> None:
    with pytest.raises(BudgetError, match="beyond its desired level"):
        Criterion("quality", 0.9, 0.8, 1.0)
