"""Straight-through rounding and ReinMax against exact gradients."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.numerics import reinmax, reinmax_of, straight_through


def test_straight_through_is_rounded_forward_and_the_identity_backward() -> None:
    values = torch.tensor([0.2, 0.7, -1.4], requires_grad=True)
    result = straight_through(values, values.round())
    (result * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(result.detach(), torch.tensor([0.0, 1.0, -1.0]))
    assert torch.equal(values.grad, torch.tensor([1.0, 2.0, 3.0]))


@given(st.integers(2, 5), st.integers(0, 1000))
def test_reinmax_at_temperature_one_is_unbiased_for_a_quadratic_objective(choices: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(choices, generator=generator, dtype=torch.float64)
    square = torch.randn(choices, choices, generator=generator, dtype=torch.float64)
    linear = torch.randn(choices, generator=generator, dtype=torch.float64)

    def objective(point: torch.Tensor) -> torch.Tensor:
        return point @ (square @ square.T) @ point / 2 + linear @ point

    exact = logits.clone().requires_grad_(True)
    outcomes = torch.eye(choices, dtype=torch.float64)
    torch.stack([p * objective(each) for p, each in zip(exact.softmax(-1), outcomes, strict=True)]).sum().backward()
    estimate = torch.zeros(choices, dtype=torch.float64)
    for probability, outcome in zip(logits.softmax(-1), outcomes, strict=True):
        leaf = logits.clone().requires_grad_(True)
        objective(reinmax_of(leaf, outcome)).backward()
        estimate += probability * leaf.grad
    assert torch.allclose(estimate, exact.grad, atol=1e-12)


def test_reinmax_draws_one_hot_samples_at_the_right_rate() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20000, 3)
    drawn = reinmax(logits, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.sum(-1), torch.ones(20000))
    assert torch.allclose(drawn.mean(0), logits[0].softmax(-1), atol=0.01)
