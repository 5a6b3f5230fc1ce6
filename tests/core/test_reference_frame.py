"""Ranking against declared frames: vetoes, caps, no rank reversal, the method's worked numbers, pymcdm as oracle."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import BudgetError
from featherweight.core.reference_frame import METHODS, Criterion, Method, closeness, misses, rank

CRITERIA = [
    Criterion("quality", 0.8, 1.0, 0.7),
    Criterion("memory", 100.0, 50.0, 0.2, benefit=False),
    Criterion("latency", 30.0, 15.0, 0.1, benefit=False),
]
OPEN = [criterion.open() for criterion in CRITERIA]
points = st.fixed_dictionaries({
    "quality": st.floats(0.5, 1.1), "memory": st.floats(10, 150), "latency": st.floats(1, 50)
})  # fmt: skip
alternatives = st.dictionaries(st.text(min_size=1, max_size=3), points, min_size=1, max_size=8)


class TestAnchored:
    @given(alternatives, st.data())
    def test_the_rest_never_matters(self, every: dict[str, dict[str, float]], data: st.DataObject) -> None:
        kept = data.draw(st.sets(st.sampled_from(sorted(every))))
        everything = dict(rank(every, CRITERIA).ranked)
        some = dict(rank({name: every[name] for name in kept}, CRITERIA).ranked)
        assert some == {name: score for name, score in everything.items() if name in kept}

    @given(points, st.sampled_from(["quality", "memory", "latency"]), st.floats(0, 20))
    def test_better_is_never_worse(self, point: dict[str, float], name: str, change: float) -> None:
        better = {**point, name: point[name] + change / 20 if name == "quality" else point[name] - change}
        before, after = closeness(point, CRITERIA), closeness(better, CRITERIA)
        if before is not None:
            assert after is not None
            assert after >= before - 1e-12

    @given(points, st.floats(0, 5))
    def test_flat_beyond_the_desired_level(self, point: dict[str, float], surplus: float) -> None:
        reached = {**point, "quality": 1.0, "memory": 50.0}
        beyond = {**point, "quality": 1.0 + surplus, "memory": 50.0 - surplus}
        assert closeness(reached, CRITERIA) == closeness(beyond, CRITERIA)

    def test_ends_of_the_frame(self) -> None:
        assert closeness({"quality": 1.0, "memory": 50, "latency": 15}, CRITERIA) == 1.0
        assert closeness({"quality": 2.0, "memory": 1, "latency": 1}, CRITERIA) == 1.0
        assert closeness({"quality": 0.8, "memory": 100, "latency": 30}, CRITERIA) == 0.0

    def test_worked_numbers(self) -> None:
        assert Criterion("x", 20, 90, 0.25).position(68) * 0.25 == pytest.approx(0.1714, abs=1e-4)
        targets = (0.2143, 0.1912, 0.1519, 0.1786)
        equal = [Criterion(str(i), 0.0, 1.0, 0.25) for i in range(4)]
        score = closeness({str(i): 4 * target for i, target in enumerate(targets)}, equal)
        worst = math.sqrt(sum(target**2 for target in targets))
        best = math.sqrt(sum((0.25 - target) ** 2 for target in targets))
        assert (worst, best) == (pytest.approx(0.3707, abs=1e-4), pytest.approx(0.1395, abs=1e-4))
        assert score == pytest.approx(0.7266, abs=1e-4)

    def test_levels_without_end_are_no_frame(self) -> None:
        with pytest.raises(BudgetError, match="criterion quality: runs from -inf to inf, where nothing has a position"):
            rank({"a": {"quality": 1.0, "memory": 1.0, "latency": 1.0}}, OPEN)


class TestVeto:
    def test_before_anything_else(self) -> None:
        assert closeness({"quality": 0.79, "memory": 50, "latency": 15}, CRITERIA) is None
        assert misses({"quality": 0.79, "memory": 101, "latency": 15}, CRITERIA) == ("quality", "memory")

    @pytest.mark.parametrize("method", ["anchored", "vector"])
    def test_nothing_acceptable_is_an_answer(self, method: Method) -> None:
        found = rank({"a": {"quality": 0.1, "memory": 1, "latency": 1}}, CRITERIA, method)
        assert (found.ranked, found.best, found.vetoed) == ((), None, {"a": ("quality",)})
        assert rank({}, CRITERIA, method).ranked == ()

    def test_what_is_not_a_number_is_out(self) -> None:
        for method in METHODS:
            found = rank({"a": {"quality": math.nan, "memory": 60, "latency": 20}}, CRITERIA, method)
            assert found.vetoed == {"a": ("quality",)}, method

    @given(alternatives)
    def test_a_vetoed_one_moves_nobody(self, every: dict[str, dict[str, float]]) -> None:
        """Vetoed before anything is normalised, so that it takes no part in any scale."""
        for method in ("anchored", "vector"):
            found = rank(every, CRITERIA, method)
            accepted = {name: every[name] for name in every if name not in found.vetoed}
            assert rank(accepted, CRITERIA, method).ranked == found.ranked


class TestRelative:
    @given(alternatives)
    def test_vector_without_levels_is_classical(self, every: dict[str, dict[str, float]]) -> None:
        assert rank(every, OPEN, "vector") == rank(every, CRITERIA, "classical")

    @given(alternatives)
    def test_vector_caps(self, every: dict[str, dict[str, float]]) -> None:
        capped = {
            name: {criterion.name: criterion.capped(values[criterion.name]) for criterion in CRITERIA}
            for name, values in every.items()
        }
        assert rank(every, CRITERIA, "vector") == rank(capped, CRITERIA, "vector")

    def test_alike_and_alone(self) -> None:
        point = {"quality": 0.9, "memory": 60.0, "latency": 20.0}
        for method in ("vector", "classical", "min-max"):
            assert rank({"a": point, "b": point}, CRITERIA, method).ranked == (("a", 0.5), ("b", 0.5))

    def test_an_outlier_reverses_all_but_anchored_ranks(self) -> None:
        every = {"a": {"x": 0.9, "y": 0.2}, "b": {"x": 0.3, "y": 0.5}, "c": {"x": 0.2, "y": 0.6}}
        frame = [Criterion(name, 0.0, 1.5, 0.5) for name in "xy"]

        def order(some: dict[str, dict[str, float]], method: Method) -> list[str]:
            return [name for name, _ in rank(some, frame, method).ranked if name in every]

        same = {
            method: order(every, method) == order({**every, "d": {"x": 0.1, "y": 5.0}}, method) for method in METHODS
        }
        assert same == {"anchored": True, "vector": False, "classical": False, "min-max": False}


@given(st.lists(st.integers(0, 100).map(lambda value: value / 100), min_size=2, max_size=6, unique=True))
def test_one_criterion_is_a_plain_sort(values: list[float]) -> None:
    every = {str(value): {"q": value, "r": -value} for value in values}
    frame = [Criterion("q", -0.1, 1.1, 1.0), Criterion("r", -2.0, 2.0, 0.0)]
    for method in METHODS:
        order = [float(name) for name, _ in rank(every, frame, method).ranked]
        assert order == sorted(values, reverse=True), method


@pytest.mark.parametrize(("veto", "desired", "benefit"), [(0.9, 0.8, True), (0.9, 0.9, True), (0.8, 0.9, False)])
def test_frame_upside_down_is_refused(veto: float, desired: float, benefit: bool) -> None:
    with pytest.raises(BudgetError, match="beyond its desired level"):
        Criterion("quality", veto, desired, 1.0, benefit)


def test_weights_and_methods_that_make_no_sense() -> None:
    with pytest.raises(BudgetError, match="has the weight -1"):
        Criterion("quality", 0.8, 1.0, -1)
    with pytest.raises(BudgetError, match="have no weight"):
        rank({"a": {"quality": 0.9}}, [Criterion("quality", 0.8, 1.0, 0.0)])
    with pytest.raises(BudgetError, match="ranking 'anchord': is unknown; did you mean 'anchored'"):
        rank({}, CRITERIA, "anchord")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Weights should be positive")  # they are; their sum is off by one rounding
class TestOracle:
    """pymcdm on random problems; it has neither veto nor cap, so levels lie outside all values."""

    @pytest.fixture(scope="class")
    def methods(self) -> Any:
        return pytest.importorskip("pymcdm.methods", reason="needs pymcdm: pip install 'featherweight[dev]'")

    @pytest.fixture(params=range(20))
    def problem(self, request: pytest.FixtureRequest) -> tuple[Any, list[Criterion]]:
        draw = np.random.default_rng(request.param)
        frame = [
            Criterion(str(i), *((0.0, 1.0) if benefit else (1.0, 0.0)), float(weight), bool(benefit))
            for i, (benefit, weight) in enumerate(zip(draw.random(4) < 0.6, draw.random(4), strict=True))
        ]
        return draw.random((8, 4)), frame

    def scores(self, problem: tuple[Any, list[Criterion]], method: Method) -> list[float]:
        matrix, frame = problem
        every = {str(row): {str(i): float(x) for i, x in enumerate(values)} for row, values in enumerate(matrix)}
        found = dict(rank(every, frame, method).ranked)
        return [found[str(row)] for row in range(len(matrix))]

    def given(self, problem: tuple[Any, list[Criterion]]) -> tuple[Any, Any, Any]:
        matrix, frame = problem
        weights = np.array([each.weight for each in frame])
        return matrix, weights / weights.sum(), np.array([1 if each.benefit else -1 for each in frame])

    def test_classical(self, methods: Any, problem: tuple[Any, list[Criterion]]) -> None:
        from pymcdm.normalizations import minmax_normalization, vector_normalization

        for method, normalization in (("classical", vector_normalization), ("min-max", minmax_normalization)):
            expected = methods.TOPSIS(normalization)(*self.given(problem))
            assert self.scores(problem, method) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]

    def test_anchored_is_the_reference_ideal_method(self, methods: Any, problem: tuple[Any, list[Criterion]]) -> None:
        """With an ideal that is one end of each range, RIM's closeness is the anchored one."""
        bounds = np.array([[0.0, 1.0]] * 4)
        expected = methods.RIM(bounds)(*self.given(problem))
        assert self.scores(problem, "anchored") == pytest.approx(expected, abs=1e-12)

    def test_one_criterion_agrees_with_spotis(self, methods: Any, problem: tuple[Any, list[Criterion]]) -> None:
        """SPOTIS sums distances where TOPSIS squares them: on a single criterion they are one minus each other."""
        matrix, frame = problem
        alone = [dataclasses.replace(each, weight=float(i == 0)) for i, each in enumerate(frame)]
        expected = methods.SPOTIS(np.array([[0.0, 1.0]] * 4))(*self.given((matrix, alone)))
        assert self.scores((matrix, alone), "anchored") == pytest.approx(1 - expected, abs=1e-12)
