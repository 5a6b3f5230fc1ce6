"""Weights of nested components: the spec's figures, and the identity that they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import RecipeError
from featherweight.core.nested import check_ranks, component_weights, powers_of_two, ranks_within, scale

AT = (0, 1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("none", [6, 5, 4, 3, 2, 1]),
        ("sqrt", [2.9874, 1.9874, 1.2803, 0.7803, 0.4268, 0.1768]),
        ("rank", [1.96875, 0.96875, 0.46875, 0.21875, 0.09375, 0.03125]),
    ],
)
def test_weights_of_rank_32(scaling, expected) -> None:
    weights = component_weights(32, powers_of_two(32), scaling)
    assert [weights[index] for index in AT] == pytest.approx(expected, abs=5e-5)
    assert len(weights) == 32
    assert weights == sorted(weights, reverse=True)
    assert component_weights(32, powers_of_two(32), scaling, divide=True) == pytest.approx([w / 6 for w in weights])


def test_counts_of_equal_weights() -> None:
    weights = component_weights(32, powers_of_two(32), "none")
    assert [weights.count(value) for value in (6, 5, 4, 3, 2, 1)] == [1, 1, 2, 4, 8, 16]


@given(
    rank=st.integers(1, 24),
    ranks=st.sets(st.integers(1, 24), min_size=1),
    scaling=st.sampled_from(["none", "rank", "sqrt"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_sum_of_nested_outputs_is_one_weighted_output(dtype, tolerance, rank, ranks, scaling, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, a, b = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((5, 9), (rank, 9), (7, rank)))
    within = ranks_within(sorted(ranks), rank)
    nested = sum(scale(r, scaling) * (x @ a[:r].T) @ b[:, :r].T for r in within)
    weights = torch.tensor(component_weights(rank, within, scaling), dtype=dtype)
    assert (nested - (x @ a.T * weights) @ b.T).abs().max() < tolerance


def test_the_rank_itself_is_always_served() -> None:
    assert powers_of_two(1) == (1,)
    assert powers_of_two(32) == (1, 2, 4, 8, 16, 32)
    assert powers_of_two(12) == (1, 2, 4, 8, 12)
    assert ranks_within((1, 2, 4, 8), 3) == (1, 2, 3)
    assert component_weights(3, ranks_within((1, 2, 4, 8), 3), "none") == [3, 2, 1]


@pytest.mark.parametrize("ranks", [(), (0, 1), (1, 17)])
def test_refuses_ranks_that_the_adapter_has_not(ranks) -> None:
    with pytest.raises(RecipeError, match=r"must be between 1 and the adapter's rank, 16; use for example 1, 2, 4"):
        check_ranks(ranks, 16)
    assert check_ranks((8, 2, 2), 16) == (2, 8)
