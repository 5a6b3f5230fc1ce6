"""Error feedback: equals plain rounding without correlations, beats it with them, and solves small cases exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.formats import get
from featherweight.core.moments import importance_of
from featherweight.core.rounding import Feedback, round_with_feedback
from featherweight.core.second_order import inverse_factor, sweep


def correlated(columns: int, seed: int, tokens: int = 2048) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(tokens, columns, generator=generator) @ (mixing + 0.3 * torch.eye(columns))
    return inputs.T @ inputs / tokens


def damage(error: torch.Tensor, hessian: torch.Tensor) -> float:
    return float(((error @ hessian) * error).sum())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "IQ4_NL", "Q4_K", "Q6_K", "int4-g64", "int4-g32-asym"])
@pytest.mark.parametrize("act_order", [True, False])
def test_diagonal_hessian_is_plain_rounding(kind: str, act_order: bool) -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    hessian = torch.diag(torch.rand(256, generator=torch.Generator().manual_seed(1)) + 0.5)
    packed = round_with_feedback({"w": weight}, {"w": kind}, hessian, Feedback(act_order=act_order))["w"]
    fitted = get(kind).fit(weight, importance_of(hessian.diagonal()))
    expected = get(kind).recode(fitted, get(kind).grid(fitted).nearest(weight))
    assert all(torch.equal(packed.parts[part], expected.parts[part]) for part in expected.parts)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "IQ4_NL", "Q4_K", "Q3_K", "int4-g64"])
def test_feedback_lowers_the_output_error(kind: str) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    hessian = correlated(256, 1)
    packed = round_with_feedback({"w": weight}, {"w": kind}, hessian, Feedback())["w"]
    plain = get(kind).fit(weight, importance_of(hessian.diagonal()))
    assert damage(packed.dequantize() - weight, hessian) < 0.8 * damage(plain.dequantize() - weight, hessian)


def test_matrices_sharing_an_input_do_not_disturb_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(rows, 128, generator=generator) for name, rows in (("q", 24), ("k", 8), ("v", 8))}
    kinds = {"q": "Q4_0", "k": "IQ4_NL", "v": "Q8_0"}
    hessian = correlated(128, 2)
    together = round_with_feedback(weights, kinds, hessian, Feedback())
    for name, weight in weights.items():
        alone = round_with_feedback({name: weight}, kinds, hessian, Feedback())[name]
        assert torch.allclose(together[name].dequantize(), alone.dequantize(), atol=1e-4)
        differing = (together[name].dequantize() != alone.dequantize()).float().mean()
        assert float(differing) < 0.01  # float32 noise may tip a weight that lies between two grid values


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_block_length_changes_nothing_but_speed(block: int) -> None:
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(3))
    hessian = correlated(96, 4)
    factor = inverse_factor(hessian)

    def decide(index: int, column: torch.Tensor) -> torch.Tensor:
        return (column * 4).round() / 4

    reference = sweep(weight.T.contiguous(), factor, decide, block=96)
    assert torch.allclose(sweep(weight.T.contiguous(), factor, decide, block), reference, atol=1e-5)


def test_two_columns_by_hand() -> None:
    """With two columns the second absorbs the first's error times H12 / H22, as least squares says."""
    hessian = torch.tensor([[2.0, 1.2], [1.2, 1.0]])
    factor = inverse_factor(hessian, damping=1e-9)
    seen: list[float] = []

    def decide(index: int, column: torch.Tensor) -> torch.Tensor:
        seen.append(float(column[0]))
        return column.round()

    sweep(torch.tensor([[0.3], [0.6]]), factor, decide)
    assert seen[1] == pytest.approx(0.6 + 0.3 * 1.2 / 1.0, rel=1e-5)


def test_close_to_the_best_of_all_choices() -> None:
    hessian = correlated(4, 7)
    weight = torch.randn(20, 4, generator=torch.Generator().manual_seed(8)) * 2

    def decide(index: int, column: torch.Tensor) -> torch.Tensor:
        return column.round()

    found = sweep(weight.T.contiguous(), inverse_factor(hessian, 1e-6), decide).T
    offsets = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0, 2.0], repeat=4))) + 0.0
    best = 0.0
    for row in weight:
        choices = row.floor() + offsets
        best += min(damage((choice - row)[None], hessian) for choice in choices)
    nearest = damage(weight.round() - weight, hessian)
    reached = damage(found - weight, hessian)
    assert best - 1e-4 <= reached <= nearest


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 39))
def test_factor_of_any_moment(seed: int, columns: int, tokens: int) -> None:
    """Too few tokens give a singular moment; the factor is still finite and inverts the damped one."""
    inputs = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed))
    hessian = inputs.T @ inputs / tokens
    factor = inverse_factor(hessian, 0.05)
    assert bool(factor.isfinite().all())
    damped = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(columns)
    assert torch.allclose(factor.T @ factor @ damped, torch.eye(columns), atol=1e-2)


def test_pruned_zeros_stay_zero() -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    weight[torch.rand(16, 256, generator=torch.Generator().manual_seed(1)) < 0.5] = 0
    for kind in ("Q4_0", "Q8_0", "int4-g64"):
        values = round_with_feedback({"w": weight}, {"w": kind}, correlated(256, 3), Feedback())["w"].dequantize()
        assert bool((values[weight == 0] == 0).all())
