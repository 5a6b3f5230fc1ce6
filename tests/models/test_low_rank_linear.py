"""Linears as two thin ones: full rank is the layer itself, less is the best there is for the inputs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.models.low_rank_linear import LowRankLinear, factors, rank_of


def test_full_rank_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(12, 20), torch.randn(200, 20) * torch.linspace(0.1, 3, 20)
    up, down = factors(weight, inputs.T @ inputs / 200, 12)
    torch.testing.assert_close(up @ down, weight, atol=1e-4, rtol=1e-4)
    bias = torch.randn(12)
    layer = LowRankLinear(up, down, bias)
    torch.testing.assert_close(layer(inputs), inputs @ weight.T + bias, atol=1e-3, rtol=1e-4)


def test_what_is_left_out_is_the_smallest_part_of_the_outputs() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 24).double()
    inputs = torch.randn(500, 24).double() * torch.logspace(-2, 1, 24).double()
    moment = inputs.T @ inputs / 500

    def error(approximation: torch.Tensor) -> float:
        return float(((weight - approximation) @ moment * (weight - approximation)).sum())

    up, down = factors(weight, moment, 5)
    left, sizes, right = torch.linalg.svd(weight)
    plain = (left[:, :5] * sizes[:5]) @ right[:5]
    spectrum = torch.linalg.svdvals(weight @ torch.linalg.cholesky(moment))
    assert error(up.double() @ down.double()) < 0.5 * error(plain)
    # Eckart and Young: nothing of rank 5 leaves less.
    assert abs(error(up.double() @ down.double()) / float(spectrum[5:].square().sum()) - 1) < 0.01


def test_inputs_that_span_little() -> None:
    up, down = factors(torch.randn(6, 8), torch.zeros(8, 8), 3)
    assert bool(torch.isfinite(up @ down).all())


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1.0))
def test_a_rank_holds_its_share(rows: int, columns: int, share: float) -> None:
    rank = rank_of(rows, columns, share)
    assert rank == 1 or rank * (rows + columns) <= share * rows * columns
