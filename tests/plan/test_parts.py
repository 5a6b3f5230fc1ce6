"""The planner's parts by themselves: goal, frontier, cost model, order arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.budget import Budget
from featherweight.core.recipe import Recipe
from featherweight.core.technique import build
from featherweight.plan.cost import fit_latency
from featherweight.plan.frontier import pareto
from featherweight.plan.goal import Goal, Measured
from featherweight.plan.order import Curve, compare_orders


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


class TestOrder:
    curve = Curve([(8.5, 0.001), (5.5, 0.02), (4.5, 0.1), (3.4, 0.5)])

    def test_ratio_at_the_points_is_their_own(self) -> None:
        for bits, loss in self.curve.points:
            assert self.curve.ratio(loss) == pytest.approx(16 / bits)

    @given(st.floats(1e-6, 5), st.floats(1e-6, 5))
    def test_ratio_is_monotone(self, one: float, other: float) -> None:
        low, high = sorted((one, other))
        assert self.curve.ratio(low) <= self.curve.ratio(high) + 1e-9

    def test_advantage_is_antisymmetric_and_gap_follows(self) -> None:
        cut, rounding = build("rtn", {"format": "Q8_0"}), build("rtn", {"format": "Q4_0"})
        losses = {
            Recipe((cut,)).digest: 2.1, Recipe((rounding,)).digest: 2.5,
            Recipe((cut, rounding)).digest: 2.7, Recipe((rounding, cut)).digest: 2.8,
        }  # fmt: skip
        pair = compare_orders(rounding, cut, 2.0, lambda recipe: losses[recipe.digest], self.curve)
        assert pair.first == "rtn"
        assert pair.loss_first == pytest.approx(0.1)  # weaker first
        assert pair.gap == pytest.approx(0.4)
        assert pair.advantage == pytest.approx(0.1)
        assert pair.to_dict()["better"] == "proposed"
        swapped = compare_orders(cut, rounding, 2.0, lambda recipe: losses[recipe.digest], self.curve)
        assert swapped.advantage == pytest.approx(pair.advantage)

    def test_equal_steps_have_no_advantage_and_keep_their_order(self) -> None:
        step = build("rtn", {"format": "Q8_0"})
        pair = compare_orders(step, step, 2.0, lambda recipe: 2.0 + 0.1 * len(recipe), self.curve)
        assert pair.advantage == 0
        assert pair.gap == 0

    def test_unusable_points_are_left_out(self) -> None:
        assert Curve([(8.5, 0.001), (4.5, math.inf), (3.4, 0.5)]).ratio(0.5) == pytest.approx(16 / 3.4)
