"""The bound of a loss: exact, never wrong more often than it says, monotone, and its own test turned round."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.verify.non_inferiority import LEVEL, loss_below, p_value, score, upper_bound

GAINS = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.3)


def chance_to_pass(count: int, margin: float, gains: float) -> float:
    """Summed over every table that passes, at a true loss of the margin."""
    tables = [
        [lost, gained, count - lost - gained]
        for gained in range(count + 1)
        for lost in range(count - gained + 1)
        if loss_below(lost, gained, count, margin)
    ]
    return float(scipy.stats.multinomial.pmf(tables, count, [gains + margin, gains, 1 - 2 * gains - margin]).sum())


@pytest.mark.parametrize(("count", "margin"), [(20, 0.25), (35, 0.1)])
def test_a_loss_of_the_margin_passes_with_at_most_five_percent(count: int, margin: float) -> None:
    rates = [chance_to_pass(count, margin, gains) for gains in GAINS]
    assert max(rates) <= LEVEL


def test_it_is_not_needlessly_careful() -> None:
    assert max(chance_to_pass(35, 0.1, gains) for gains in GAINS) > 0.04


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (2, 3), (0, 4)])
def test_the_tail_is_the_sum_over_all_tables(lost: int, gained: int) -> None:
    count, margin = 20, 0.15
    seen = score(lost, gained, count, margin) + 1e-9
    every = np.array([[a, b, count - a - b] for b in range(count + 1) for a in range(count - b + 1)])
    tables = every[score(every[:, 0], every[:, 1], count, margin) <= seen]
    low = scipy.stats.beta.ppf(5e-4, gained, count - gained + 1) if gained else 0.0
    high = min(scipy.stats.beta.ppf(1 - 5e-4, gained + 1, count - gained), (1 - margin) / 2)
    tails = [
        scipy.stats.multinomial.pmf(tables, count, [gains + margin, gains, 1 - 2 * gains - margin]).sum()
        for gains in np.linspace(low, high, 80)
    ]
    assert p_value(lost, gained, count, margin) == pytest.approx(max(tails) + 1e-3, abs=2e-4)


def test_the_score_without_a_change_is_closed() -> None:
    for count, margin in ((200, 0.02), (400, 0.05)):
        assert score(0, 0, count, margin) == pytest.approx(-math.sqrt(count * margin / (1 - margin)))


@settings(max_examples=25)
@given(st.integers(20, 300), st.integers(0, 12), st.integers(0, 12), st.floats(0.01, 0.3))
def test_more_losses_and_fewer_gains_are_never_better(count: int, lost: int, gained: int, margin: float) -> None:
    here = upper_bound(lost, gained, count)
    assert upper_bound(lost + 1, gained, count) >= here - 2e-5
    assert upper_bound(lost, gained + 1, count) <= here + 2e-5
    assert here >= (lost - gained) / count
    assert loss_below(lost, gained, count, margin) == (here <= margin) or abs(here - margin) < 1e-4


@pytest.mark.parametrize(("count", "bound"), [(100, 0.0297), (200, 0.0150), (400, 0.0075)])
def test_the_bound_of_no_change_is_the_binomial_one(count: int, bound: float) -> None:
    assert upper_bound(0, 0, count) == pytest.approx(bound, abs=1e-4)
    assert upper_bound(0, 0, count) == pytest.approx(1 - (LEVEL - 1e-3) ** (1 / count), rel=0.02)


def test_nothing_is_shown_without_cases_or_without_a_margin() -> None:
    assert p_value(0, 0, 0, 0.1) == 1
    assert p_value(0, 0, 100, 0.0) == 1
    assert p_value(0, 0, 100, 1.0) == 1
    assert upper_bound(0, 0, 0) == 1
    assert upper_bound(100, 0, 100) == 1
