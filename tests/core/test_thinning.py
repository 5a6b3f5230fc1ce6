"""Deltas with values left out: how many stay, which, and what their sum comes to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.thinning import keep_largest, keep_some, threshold


def largest(values: torch.Tensor, density: float) -> torch.Tensor:
    """The plain way: a stable sort."""
    if density <= 0:
        return torch.zeros_like(values)
    count = max(1, int(density * len(values)))
    kept = values.abs().argsort(descending=True, stable=True)[:count]
    return torch.zeros_like(values).index_put_((kept,), values[kept])


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**31), count=st.sampled_from([1, 2, 10, 1000, 300_000]),
    density=st.sampled_from([0.0, 1e-4, 0.2, 0.5, 0.9, 0.999, 1.0]), levels=st.sampled_from([0, 3, 50]),
)  # fmt: skip
def test_largest(seed: int, count: int, density: float, levels: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    if levels:  # many values of equal size
        values = (values * levels).round() / levels
    expected = largest(values, density)
    assert torch.equal(keep_largest(values.clone(), density), expected)


def test_largest_where_a_sample_misleads() -> None:
    """Every value that the sample looks at is large, the others are small."""
    values = torch.full((61 * 5000,), 1e-3) + 1e-6 * torch.rand(61 * 5000)
    values[::61] = 1.0
    for density in (0.5, 0.9):
        assert torch.equal(keep_largest(values.clone(), density), largest(values, density))


def test_threshold_says_how_many_are_larger() -> None:
    values = torch.tensor([3.0, -1.0, 2.0, -2.0, 0.5, 2.0])
    assert threshold(values, 3) == (2.0, 1)
    assert threshold(values, 1) == (3.0, 0)
    assert threshold(values, 6) == (0.5, 5)


def test_rescaled_to_the_sum_before() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for thinned in (
        keep_largest(values.clone(), 0.3, rescale=True),
        keep_some(values.clone(), 0.3, torch.Generator().manual_seed(1)),
    ):
        assert float(thinned.abs().sum()) == pytest.approx(float(values.abs().sum()), rel=1e-5)


def test_random_share() -> None:
    values = torch.ones(400_000)
    left = keep_some(values.clone(), 0.25, torch.Generator().manual_seed(0), rescale=False)
    assert float(left.mean()) == pytest.approx(0.25, abs=0.004)
    assert set(left.tolist()) == {0.0, 1.0}
    again = keep_some(values.clone(), 0.25, torch.Generator().manual_seed(0), rescale=False)
    assert torch.equal(left, again)
    assert float(keep_some(values.clone(), 0.25, torch.Generator().manual_seed(0)).mean()) == pytest.approx(1, rel=1e-5)
    assert torch.equal(keep_some(values.clone(), 1.0, torch.Generator()), values)


def test_nothing_is_not_scaled_up() -> None:
    assert keep_some(torch.zeros(10), 0.5, torch.Generator()).count_nonzero() == 0
    assert keep_largest(torch.zeros(10), 0.5, rescale=True).count_nonzero() == 0
