"""The governor on curves whose answer is known, and the loop that it stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import RecipeError
from featherweight.train.governor import Governor, best_arm, stop_when_flat, trend_of
from featherweight.train.loop import Schedule, minimise


def stopped_at(governor: Governor, values: list[float], chunk: float = 1.0) -> int | None:
    """The evaluation, from 1, at which it stops; None = it never does."""
    for index, value in enumerate(values, start=1):
        if governor.observe(index * chunk, value).stop:
            return index
    return None


def test_a_power_law_is_stopped_where_its_derivative_says() -> None:
    values = [1 - c**-0.5 for c in range(1, 200)]
    found = stopped_at(Governor(threshold=1e-3, patience=1), values)
    assert found is not None
    assert abs(found - (0.5 / 1e-3) ** (2 / 3)) <= 1


@given(exponent=st.floats(0.1, 2.0), scale=st.floats(0.1, 10.0), place=st.integers(12, 60))
def test_the_marginal_gain_of_any_power_law_is_exact(exponent: float, scale: float, place: int) -> None:
    costs = [float(c) for c in range(place - 7, place + 1)]
    trend = trend_of(costs, [3 - scale * c**-exponent for c in costs])
    assert trend.method == "curve"
    assert math.isclose(trend.marginal, scale * exponent * place ** (-exponent - 1), rel_tol=1e-3)


def test_noise_alone_is_stopped_within_the_patience() -> None:
    late = 0
    for seed in range(100):
        values = np.random.default_rng(seed).normal(size=40).tolist()
        governor = Governor(threshold=1e-3, patience=3)
        found = stopped_at(governor, values)
        assert found is not None
        # The first judgement is at the end of the first window.
        late += found > governor.window + governor.patience - 1
    assert late <= 10
    assert stopped_at(Governor(threshold=1e-3, patience=3), np.random.default_rng(0).normal(size=40).tolist()) == 10


@settings(max_examples=25)
@given(slope=st.floats(1e-3, 1e3), start=st.floats(-10, 10), budget=st.one_of(st.none(), st.just(60.0)))
def test_a_line_is_never_stopped_early(slope: float, start: float, budget: float | None) -> None:
    values = [start + slope * c for c in range(1, 61)]
    assert stopped_at(Governor(threshold=slope * 0.99), values) is None
    assert stopped_at(Governor(budget=budget), values) is None


@settings(max_examples=25)
@given(st.floats(-100, 100))
def test_a_constant_is_stopped_at_once(level: float) -> None:
    governor = Governor(patience=2)
    assert stopped_at(governor, [level] * 40) == governor.window + 1
    assert governor.log[-1].trend is not None
    assert governor.log[-1].trend.method == "nothing"


@settings(max_examples=25)
@given(values=st.lists(st.floats(-5, 5), min_size=10, max_size=30), scale=st.sampled_from([0.5, 2.0, 1024.0]))
def test_the_unit_of_cost_changes_nothing(values: list[float], scale: float) -> None:
    one, other = Governor(), Governor()
    stopped_at(one, values), stopped_at(other, values, scale)
    assert [each.stop for each in one.log] == [each.stop for each in other.log]


def test_every_decision_is_logged_with_its_inputs() -> None:
    governor = Governor(threshold=1e-3, budget=100.0)
    stopped_at(governor, [1 - c**-0.5 for c in range(1, 20)])
    assert len(governor.log) == 19
    last = governor.log[-1]
    assert (last.cost, last.threshold, last.stop) == (19.0, 1e-3, False)
    assert last.trend is not None
    assert last.trend.exponent == pytest.approx(0.5, abs=1e-4)


def test_the_threshold_rises_as_the_budget_runs_out() -> None:
    early, late = Governor(budget=1000.0), Governor(budget=25.0)
    values = [1 - c**-0.5 for c in range(1, 21)]
    stopped_at(early, values), stopped_at(late, values)
    assert early.log[-1].threshold < late.log[-1].threshold


def test_the_arm_with_the_larger_gain_goes_on() -> None:
    slow, fast = Governor(threshold=1e-9), Governor(threshold=1e-9)
    stopped_at(slow, [1 - c**-0.5 for c in range(1, 21)])
    stopped_at(fast, [5 - 3 * c**-0.5 for c in range(1, 21)])
    assert best_arm({"slow": slow, "fast": fast}) == "fast"
    assert best_arm({"new": Governor(), "fast": fast}) == "new"
    done = Governor()
    stopped_at(done, [0.0] * 20)
    assert best_arm({"done": done}) is None


def test_it_ends_the_loop() -> None:
    parameter = torch.zeros(2)
    governor = Governor(threshold=1e-3, window=4, patience=1)

    def loss(step: int) -> torch.Tensor:
        return ((parameter - 1) ** 2).sum()

    losses = minimise([parameter], loss, Schedule(500, 0.05, decay="none"), stop=stop_when_flat(governor, 5))
    assert len(losses) < 400
    assert len(losses) == 5 * len(governor.log)
    assert governor.stopped
    assert losses[-1] < 0.05 * losses[0]


def test_it_judges_what_it_is_told_to() -> None:
    governor, heldout = Governor(), iter(range(100))
    stop = stop_when_flat(governor, 2, lambda: float(next(heldout)))
    for step in range(6):
        stop(step, 0.0)
    assert [each.value for each in governor.log] == [0.0, -1.0, -2.0]


@pytest.mark.parametrize("wrong", [{"window": 3}, {"patience": 0}, {"share": 0.0}, {"share": 1.0}])
def test_settings_that_make_no_governor(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="make no governor"):
        Governor(**wrong)  # type: ignore[arg-type]


def test_cost_must_grow() -> None:
    governor = Governor()
    with pytest.raises(RecipeError, match="does not grow"):
        governor.observe(0.0, 1.0)
    governor.observe(1.0, 1.0)
    with pytest.raises(RecipeError, match="does not grow"):
        governor.observe(1.0, 2.0)
