"""SparseGPT: what it must equal exactly, and what it must beat."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.run import Run
from featherweight.core.second_order import inverse_factor
from featherweight.techniques.prune.magnitude import Magnitude
from featherweight.techniques.prune.sparsegpt import SparseGpt
from featherweight.techniques.prune.wanda import Wanda

ROWS, COLUMNS = 24, 64


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [rows, columns] and the second moment of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, 16, generator=generator) @ torch.randn(16, COLUMNS, generator=generator)
    inputs = (inputs + 0.5 * torch.randn(400, COLUMNS, generator=generator)) * torch.rand(COLUMNS, generator=generator)
    return torch.randn(ROWS, COLUMNS, generator=generator), inputs.T @ inputs / 400


@pytest.mark.parametrize("compare", ["row", "matrix"])
@pytest.mark.parametrize("fields", [{"sparsity": 0.3}, {"sparsity": 0.5}, {"pattern": "2:4"}])
def test_inputs_without_correlation_and_one_block_give_magnitude_pruning(
    compare: str, fields: dict[str, object]
) -> None:
    """H = I scores W_ij^2 times a constant and passes no error on: the same zeros, and no other weight moves."""
    weight, _ = drawn(0)
    settings = SparseGpt(block=COLUMNS, compare=compare, **fields)  # type: ignore[arg-type]
    pruned = settings.pruned(weight, inverse_factor(torch.eye(COLUMNS)), Run(), "w")
    dropped = Magnitude(**fields).dropped(weight.abs(), compare)  # type: ignore[arg-type]
    assert torch.equal(pruned, weight.masked_fill(dropped, 0))


@pytest.mark.parametrize("block", [16, 48, 64, 1000])
def test_the_share_holds_in_every_block(block: int) -> None:
    weight, hessian = drawn(1)
    pruned = SparseGpt(sparsity=0.5, block=block).pruned(weight, inverse_factor(hessian), Run(), "w")
    for first in range(0, COLUMNS, block):
        part = pruned[:, first : first + block]
        assert (part == 0).sum() == part.numel() // 2


def test_dropping_the_first_column_moves_the_rest_to_the_least_squares_solution() -> None:
    weight, hessian = drawn(2)
    weight[:, 0] *= 1e-3
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(COLUMNS)
    settings = SparseGpt(sparsity=1 / COLUMNS, compare="row", block=COLUMNS)
    pruned = settings.pruned(weight, inverse_factor(hessian), Run(), "w")
    assert (pruned[:, 0] == 0).all()
    taken_over = weight[:, :1] @ damped[:1, 1:] @ torch.linalg.inv(damped[1:, 1:])
    torch.testing.assert_close(pruned[:, 1:], weight[:, 1:] + taken_over, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fields", [{"sparsity": 0.25}, {"sparsity": 0.5}, {"sparsity": 0.75}, {"pattern": "2:4"}])
def test_its_output_error_is_below_wandas_and_magnitudes(seed: int, fields: dict[str, object]) -> None:
    weight, hessian = drawn(seed)

    def error(pruned: torch.Tensor) -> float:
        moved = pruned - weight
        return float(((moved @ hessian) * moved).sum())

    wanda = Wanda(**fields)  # type: ignore[arg-type]
    by_wanda = wanda.dropped(wanda.scores(weight, hessian.diagonal(), "w", Run()), "row")
    by_size = Magnitude(**fields).dropped(weight.abs(), "matrix")  # type: ignore[arg-type]
    pruned = SparseGpt(**fields).pruned(weight, inverse_factor(hessian), Run(), "w")  # type: ignore[arg-type]
    assert (pruned == 0).sum() == by_size.sum() == by_wanda.sum()
    assert error(pruned) <= error(weight.masked_fill(by_wanda, 0))
    assert error(pruned) <= error(weight.masked_fill(by_size, 0))


def test_zeros_that_are_there_stay_and_count() -> None:
    weight, hessian = drawn(3)
    before = Magnitude(sparsity=0.5, compare="row").dropped(weight.abs(), "row")
    settings = SparseGpt(sparsity=0.5, compare="row", block=COLUMNS)
    pruned = settings.pruned(weight.masked_fill(before, 0), inverse_factor(hessian), Run(), "w")
    assert torch.equal(pruned == 0, before)


def test_a_block_of_columns_is_a_multiple_of_m() -> None:
    weight, hessian = drawn(4)
    pruned = SparseGpt(pattern="4:8", block=10).pruned(weight, inverse_factor(hessian), Run(), "w")
    assert ((pruned.reshape(-1, 8) != 0).sum(1) == 4).all()


def test_inputs_that_never_vary_are_no_error() -> None:
    weight, hessian = drawn(5)
    hessian[:, 7] = hessian[7] = 0
    pruned = SparseGpt().pruned(weight, inverse_factor(hessian), Run(), "w")
    assert pruned.isfinite().all()
