"""The mathematics of the game: utilities, best response, potential, prices, the closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.train.participation import (
    Rules,
    benefits,
    best_response,
    clearing_price,
    marginal_utility,
    rivalry,
    share_from_costs_alone,
)


def players(seed: int, count: int = 6, weights: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, shares and inner products <dL/dtheta, theta> of some players, float64."""
    generator = torch.Generator().manual_seed(seed)
    owned = torch.randn(count, weights, generator=generator, dtype=torch.float64)
    shares = torch.rand(count, generator=generator, dtype=torch.float64)
    return owned, shares, torch.randn(count, generator=generator, dtype=torch.float64)


def net_of(rules: Rules, owned: torch.Tensor, shares: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    gains = rules.reward * benefits(rules, shares, slopes)
    return gains - rules.absolute - rules.competition * rivalry(owned, shares)


@pytest.mark.parametrize("benefit", ["descent", "paper"])
@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_the_slope_of_the_printed_utility(benefit: Any, seed: int) -> None:
    owned, shares, slopes = players(seed)
    rules = Rules("utility", benefit, 1.3, 0.2, 0.05, 0.7)
    inner = shares * slopes * (1 if benefit == "paper" else -1)  # held constant, as the paper does
    variable = shares.clone().requires_grad_(True)
    others = (owned @ owned.T).fill_diagonal_(0) @ shares
    utilities = 1.3 * variable * inner - (
        0.2 * owned.square().sum(1) * variable**2 + 0.05 * variable.abs() + 0.7 * variable * others
    )
    (expected,) = torch.autograd.grad(utilities.sum(), variable)
    net = net_of(rules, owned, shares, slopes)
    torch.testing.assert_close(marginal_utility(rules, net, shares, owned.square().sum(1)), expected)


def test_the_potential_game_climbs_one_function() -> None:
    owned, shares, _ = players(5)
    rules = Rules("potential", "descent", 2.0, 0.2, 0.05, 0.7)
    target = torch.randn(4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def loss(s: torch.Tensor) -> torch.Tensor:
        return (s @ owned - target).square().sum()

    variable = shares.clone().requires_grad_(True)
    gram = (owned @ owned.T).fill_diagonal_(0)
    costs = 0.2 * (owned.square().sum(1) * variable**2).sum() + 0.05 * variable.sum()
    potential = -2.0 * loss(variable) - costs - 0.7 * 0.5 * variable @ gram @ variable
    (expected,) = torch.autograd.grad(potential, variable)
    (slopes,) = torch.autograd.grad(loss(variable), variable)
    net = net_of(rules, owned, shares, slopes)
    torch.testing.assert_close(marginal_utility(rules, net, shares, owned.square().sum(1)), expected)


@pytest.mark.parametrize("game", ["utility", "potential"])
def test_the_sign_of_the_benefit_is_explicit(game: Any) -> None:
    _, shares, slopes = players(1)
    assert torch.equal(
        benefits(Rules(game, "descent"), shares, slopes), -benefits(Rules(game, "paper"), shares, slopes)
    )


@given(st.integers(0, 200), st.floats(0.01, 2), st.floats(0, 0.5))
def test_the_best_response_maximises_the_utility_of_one_player(seed: int, quadratic: float, absolute: float) -> None:
    owned, shares, slopes = players(seed)
    rules, norms = Rules("potential", "descent", 1.0, quadratic, absolute), owned.square().sum(1)
    net = net_of(rules, owned, shares, slopes)
    response = best_response(rules, net, norms)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    best = grid[(net * grid - quadratic * norms * grid**2).argmax(0)][:, 0]
    assert (response - best).abs().max() < 1e-3
    assert torch.equal(response == 0, net <= 0)  # pruned exactly when the numerator is not positive


def test_without_a_quadratic_cost_it_is_all_or_nothing() -> None:
    net = torch.tensor([-1.0, 0.0, 1e-9, 2.0])
    assert best_response(Rules(), net, torch.ones(4)).tolist() == [0, 0, 1, 1]


def test_an_interior_equilibrium_is_where_the_step_is_zero() -> None:
    rules, net, norms = Rules(quadratic=0.5), torch.tensor([0.4, 0.9]), torch.tensor([1.0, 2.0])
    response = best_response(rules, net, norms)
    assert torch.allclose(marginal_utility(rules, net, response, norms), torch.zeros(2))


@given(st.lists(st.floats(-3, 4), min_size=1, max_size=30), st.floats(0.001, 1), st.floats(0, 1))
def test_shares_add_up_at_the_clearing_price(aimed: list[float], rate: float, part: float) -> None:
    values, stay = torch.tensor(aimed, dtype=torch.float64), part * len(aimed)
    price = clearing_price(values, rate, stay)
    assert abs(float((values - rate * price).clamp(0, 1).sum()) - stay) < 1e-6 * len(aimed)


def test_the_clearing_price_is_what_those_inside_gain() -> None:
    """The stationary point of a concave potential under the constraint that shares add up to 2."""
    gains, shares = torch.tensor([3.0, 1.0, 0.9, 0.1], dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for _ in range(5000):
        slope = gains - 1.5 * shares
        price = clearing_price(shares + 0.01 * slope, 0.01, 2.0)
        shares = (shares + 0.01 * (slope - price)).clamp(0, 1)
    assert shares[0] == 1
    assert gains[0] - 1.5 > price
    inside = (shares > 0) & (shares < 1)
    torch.testing.assert_close((gains - 1.5 * shares)[inside], price.expand(int(inside.sum())))


@pytest.mark.parametrize(("quadratic", "absolute", "norm"), [(0.1, 0.0, 4.0), (0.001, 0.1, 2.0), (0.05, 0.05, 7.0)])
def test_costs_alone_give_the_closed_form(quadratic: float, absolute: float, norm: float) -> None:
    rules = Rules("utility", "paper", 0.0, quadratic, absolute)
    share, rate = torch.ones(1, dtype=torch.float64), 1e-4
    norms = torch.tensor([norm], dtype=torch.float64)
    for step in range(1, 15001):
        net = rules.reward * benefits(rules, share, share) - rules.absolute
        share = (share + rate * marginal_utility(rules, net, share, norms)).clamp(0, 1)
        if step % 5000 == 0:
            assert abs(float(share) - share_from_costs_alone(rules, norm, rate * step)) < 1e-4


def test_the_papers_stopping_time_is_what_prunes() -> None:
    """gamma = 0.1, rate 0.001, 20 epochs of 469 batches: the cost alone leaves 0.062, just short of epsilon."""
    assert math.isclose(share_from_costs_alone(Rules(absolute=0.1), 1.0, 0.001 * 9380), 0.062)
    assert share_from_costs_alone(Rules(absolute=0.1), 1.0, 0.001 * 10000) == 0
