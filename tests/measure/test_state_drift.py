"""Drift of states: nothing for equal ones, CKA blind to rotations, alignments that rise."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.measure.state_drift import alignment, cosine, linear_cka, relative_error, state_drift


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 99), st.integers(2, 30), st.integers(1, 30))
def test_equal_states_have_drifted_by_nothing(seed: int, samples: int, width: int) -> None:
    states = drawn(seed, samples, width)
    found = state_drift(states, states.clone(), states.clone())
    assert found.relative is not None
    assert found.local is not None
    assert float(found.relative.max()) == float(found.local.max()) == 0
    assert found.cka == pytest.approx(1)


@given(st.integers(0, 99), st.integers(3, 30), st.integers(1, 9), st.floats(0.1, 10))
def test_cka_is_blind_to_rotations_and_sizes(seed: int, samples: int, width: int, size: float) -> None:
    states, other = drawn(seed, samples, width), drawn(seed + 1, samples, width + 2)
    turn = torch.linalg.qr(drawn(seed + 2, width, width)).Q
    assert linear_cka(states @ turn * size + 3, other) == pytest.approx(linear_cka(states, other), abs=1e-9)
    assert 0 <= linear_cka(states, other) <= 1 + 1e-9


def test_both_ways_to_cka_agree() -> None:
    """Few samples are compared by their products, many by those of their columns."""
    one, other = drawn(0, 12, 11), drawn(1, 12, 12)
    centred = [each - each.mean(0) for each in (one, other)]
    first, second = (each @ each.T for each in centred)
    by_samples = float((first * second).sum() / (first.norm() * second.norm()))
    assert linear_cka(one, other) == pytest.approx(by_samples)
    assert linear_cka(drawn(0, 12, 30), drawn(0, 12, 30)) == pytest.approx(1)
    assert linear_cka(torch.ones(5, 3), one[:5]) == 0


def test_numbers() -> None:
    one, other = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert relative_error(one, other).tolist() == [0.8, 0.0]
    assert cosine(one, other).tolist() == [0.6, 0.0]


def test_states_of_another_width_are_compared_by_cka_alone() -> None:
    found = state_drift(drawn(0, 20, 8), drawn(0, 20, 6))
    assert found.relative is None
    assert found.cosine is None
    assert 0 < found.cka < 1


@given(st.integers(0, 99), st.integers(1, 4), st.integers(0, 3))
def test_the_alignment_is_the_best_rising_one(seed: int, rows: int, more: int) -> None:
    likeness = drawn(seed, rows, rows + more).abs()
    found = alignment(likeness)
    ways = itertools.combinations(range(rows + more), rows)
    best = max(sum(float(likeness[row, column]) for row, column in enumerate(way)) for way in ways)
    assert found == sorted(set(found))
    assert sum(float(likeness[row, column]) for row, column in enumerate(found)) == pytest.approx(best)
