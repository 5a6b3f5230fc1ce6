"""The planner's parts by themselves: goal, frontier, cost model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.budget import Budget
from featherweight.plan.cost import fit_latency
from featherweight.plan.frontier import pareto
from featherweight.plan.goal import Goal, Measured


class TestGoal:
    def test_one_byte_over_is_a_miss(self) -> None:
        goal = Goal.of(Budget(memory="92MB"), 269_000_000)
        assert goal.misses(Measured(92_000_000, 0.5)) == []
        assert goal.misses(Measured(92_000_001, 0.5)) == ["memory"]

    def test_unmeasured_is_a_miss(self) -> None:
        assert Goal(latency=0.03).misses(Measured(1, 1.0)) == ["latency"]

    def test_quality_is_a_floor(self) -> None:
        goal = Goal(quality=0.85)
        assert goal.misses(Measured(1, 0.85)) == []
        assert goal.misses(Measured(1, 0.8499)) == ["quality"]
        assert goal.without("quality").misses(Measured(1, 0.1)) == []

    def test_share_of_the_parent(self) -> None:
        assert Goal.of(Budget(memory="45%"), 1000).memory == 450


class TestFrontier:
    def test_known(self) -> None:
        assert pareto([(1, 5), (2, 4), (3, 4), (4, 1)]) == [0, 1, 3]

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
    def test_everything_left_out_is_beaten(self, points: list[tuple[float | None, ...]]) -> None:
        kept = pareto(points)
        assert kept
        for index, point in enumerate(points):
            beaten = any(
                all(a <= b for a, b in zip(points[k], point, strict=True)) and points[k] != point  # type: ignore[operator]
                for k in kept
            )
            assert beaten != (index in kept)


class TestLatencyModel:
    def test_recovers_what_made_the_data(self) -> None:
        made = [
            ({kind: size}, 0.002 + size * rate)
            for kind, rate in (("Q4_0", 8e-11), ("Q8_0", 6e-11))
            for size in (50_000_000, 150_000_000)
        ]
        model = fit_latency(made)
        assert model.error < 1e-6
        assert model.seconds({"Q4_0": 10**8}) == pytest.approx(0.002 + 0.008, rel=1e-4)
        assert model.seconds({"IQ4_NL": 10**8}) == pytest.approx(0.002 + 0.008, rel=1e-4)  # unknown: the slowest
