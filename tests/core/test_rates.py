"""Rates: Wilson intervals, a judge that errs, agreement beyond chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.core.rates import Confusion, Rate, corrected, corrected_interval, kappa, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 100, 0.0, 0.0370), (95, 100, 0.888, 0.978), (10, 10, 0.7225, 1.0), (25, 25, 0.867, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))
    assert Rate(hits, count).interval == wilson(hits, count)


@given(st.integers(1, 3000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_an_interval_holds_its_rate_and_mirrors(pair: tuple[int, int]) -> None:
    hits, count = pair
    low, high = wilson(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert wilson(count - hits, count) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))


def test_the_rate_behind_a_judge_that_errs() -> None:
    assert corrected(0.20, 0.90, 0.94) == pytest.approx(1 / 6)
    assert round(corrected(0.20, 0.90, 0.94), 3) == 0.167
    assert corrected(0.4, 1, 1) == pytest.approx(0.4)
    assert corrected(0.01, 0.9, 0.9) == 0
    with pytest.raises(DataError, match="tells nothing"):
        corrected(0.2, 0.5, 0.5)


@given(st.floats(0, 1), st.floats(0.55, 1), st.floats(0.55, 1))
def test_correction_undoes_the_judge(rate: float, sensitivity: float, specificity: float) -> None:
    seen = rate * sensitivity + (1 - rate) * (1 - specificity)
    assert corrected(seen, sensitivity, specificity) == pytest.approx(rate, abs=1e-9)


def test_the_corrected_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth, sensitivity, specificity = 0.98, 0.98, 0.99
    held = 0
    for seed in range(300):
        seen = Rate(int(generator.binomial(200, truth * sensitivity + (1 - truth) * (1 - specificity))), 200)
        found, missed = (int(generator.binomial(30, each)) for each in (sensitivity, specificity))
        low, high = corrected_interval(seen, Confusion(found, 30 - found, missed, 30 - missed), seed, draws=400)
        held += low <= truth <= high
    assert held >= 0.93 * 300


def test_a_perfect_sample_is_not_taken_for_a_perfect_judge() -> None:
    seen, few = Rate(20, 20), Confusion(10, 0, 10, 0)
    low, high = corrected_interval(seen, few)
    assert low < 0.95  # a plain bootstrap says 1
    assert high == 1
    assert corrected_interval(seen, few) == corrected_interval(seen, few)
    assert corrected_interval(seen, Confusion(0, 0, 0, 0)) == (0.0, 1.0)


def test_confusion() -> None:
    found = Confusion.of([True, True, True, False, False], [True, True, False, False, True])
    assert (found.sensitivity.rate, found.specificity.rate) == (pytest.approx(2 / 3), 0.5)


def test_kappa() -> None:
    assert kappa(["a", "b", "a", "b"], ["a", "b", "a", "b"]) == 1
    assert kappa(["a", "a", "b", "b"], ["a", "b", "a", "b"]) == 0
    assert kappa(["a", "a"], ["a", "a"]) is None
    assert kappa([], []) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=30))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    one, other = zip(*pairs, strict=True)
    found = kappa(one, other)
    if found is not None:
        assert found == pytest.approx(metrics.cohen_kappa_score(one, other), abs=1e-12)
