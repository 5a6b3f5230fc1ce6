"""Gram-Schmidt on inner products: orthogonal, the identity on what is orthogonal already, zero for what is not new."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.orthogonal import SAME, gram_schmidt

COUNT = 400


def deltas(seed: int, count: int, angle: float, spread: float) -> torch.Tensor:
    """Random deltas [count, values] that leave a common direction by `angle`, of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    own, common = torch.randn(count, COUNT, generator=generator), torch.randn(COUNT, generator=generator)
    sizes = 10 ** (spread * torch.randn(count, 1, generator=generator))
    return (sizes * (common + angle * own)).float().double()


def projected(vectors: torch.Tensor) -> torch.Tensor:
    return gram_schmidt(vectors @ vectors.T) @ vectors


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    left = vectors[vectors.norm(dim=1) > 0]
    unit = left / left.norm(dim=1, keepdim=True)
    return (unit @ unit.T).fill_diagonal_(0)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 6), angle=st.sampled_from([10.0, 1.0, 0.1, 1e-2, 1e-3, 3e-4]),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
)  # fmt: skip
def test_orthogonal(seed: int, count: int, angle: float, spread: float) -> None:
    found = projected(deltas(seed, count, angle, spread))
    assert float(cosines(found).abs().max()) < 1e-6
    assert float(cosines(found.float().double()).abs().max()) < 1e-6


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 6))
def test_orthogonal_input_stays(seed: int, count: int) -> None:
    basis = torch.linalg.qr(torch.randn(COUNT, count, generator=torch.Generator().manual_seed(seed)).double()).Q.T
    torch.testing.assert_close(projected(basis), basis, rtol=0, atol=1e-6)


def test_inner_products_of_zero_change_nothing_at_all() -> None:
    assert torch.equal(gram_schmidt(torch.diag(torch.tensor([4.0, 1e-12, 9e8]).double())), torch.eye(3).double())


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), factor=st.sampled_from([1.0, -1.0, 0.5, 3.0]))
def test_a_multiple_is_dropped(seed: int, factor: float) -> None:
    first, second = deltas(seed, 2, 1.0, 0.0)
    vectors = torch.stack([first, second, factor * first, first + second])
    found = projected(vectors)
    assert bool(found.isfinite().all())
    assert found[2].count_nonzero() == found[3].count_nonzero() == 0
    assert torch.equal(found[0], first)


def test_float32_rounding_of_a_duplicate_is_no_new_direction() -> None:
    base = 0.02 * torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    tuned = base + 1e-4 * torch.randn(50_000, generator=torch.Generator().manual_seed(1))
    again = (tuned * 3).div(3)  # the same, up to rounding
    vectors = torch.stack([tuned.double() - base.double(), again.double() - base.double()])
    assert not torch.equal(*vectors)
    assert projected(vectors)[1].count_nonzero() == 0


def test_what_is_new_stays() -> None:
    first = torch.zeros(3).double()
    first[0] = 1
    for share in (2 * SAME, 1e-2, 1.0):
        second = torch.tensor([1.0, share, 0.0]).double()
        torch.testing.assert_close(projected(torch.stack([first, second]))[1, 1], second[1])


def test_a_delta_of_zeros_keeps_its_row() -> None:
    vectors = torch.zeros(3, 5).double()
    vectors[1, 0] = vectors[2, 0] = vectors[2, 1] = 1
    found = gram_schmidt(vectors @ vectors.T)
    assert torch.equal(found[0], torch.tensor([1.0, 0, 0]).double())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("count", [0, 1])
def test_few(count: int) -> None:
    assert torch.equal(gram_schmidt(torch.ones(count, count).double()), torch.eye(count).double())
