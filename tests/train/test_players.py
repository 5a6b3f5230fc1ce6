"""Players in a perceptron: the identity behind the benefit, bounds, guards, removal, folding, duplicates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.train.game import Game, play
from featherweight.train.loop import Schedule
from featherweight.train.neurons import neuron_layers, without
from featherweight.train.participation import Rules
from featherweight.train.players import Dynamics


def network(seed: int = 0, widths: tuple[int, ...] = (6, 12, 8, 3)) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    modules: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        modules += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def data(seed: int = 0, rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 6, generator=generator)
    return inputs, (inputs[:, :3] + inputs[:, 3:]).argmax(1)


def loss_of(net: torch.nn.Module, seed: int = 0) -> Any:
    inputs, labels = data(seed)
    return lambda step: torch.nn.functional.cross_entropy(net(inputs), labels)


def set_shares(game: Game, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for shares in game.shares.values():
            shares.copy_(torch.rand(len(shares), generator=generator))


def gated_logits(game: Game, net: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), game.gated():
        return net(inputs)


def test_full_shares_change_nothing() -> None:
    net = network()
    inputs, _ = data()
    assert torch.equal(gated_logits(Game(neuron_layers(net), Rules()), net, inputs), net(inputs).detach())


@pytest.mark.parametrize("seed", range(3))
def test_the_inner_product_is_the_share_times_its_slope(seed: int) -> None:
    net = network(seed).double()
    layers = neuron_layers(net)
    game = Game(layers, Rules())
    set_shares(game, seed)
    inputs, labels = data(seed)
    for layer in layers:  # the same gate in double precision
        game.shares[layer.name].data = game.shares[layer.name].data.double()
    with game.gated():
        torch.nn.functional.cross_entropy(net(inputs.double()), labels).backward()
    for layer in layers:
        linear, shares = net.get_submodule(layer.name), game.shares[layer.name]
        inner = (linear.weight.grad * linear.weight).sum(1) + linear.bias.grad * linear.bias
        torch.testing.assert_close(inner, shares * shares.grad, rtol=1e-6, atol=1e-9)
        outgoing = (layer.reader.weight.grad * layer.reader.weight).sum(0)
        torch.testing.assert_close(outgoing, shares * shares.grad, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 50), st.floats(0, 5), st.floats(0, 5), st.sampled_from(["utility", "potential"]))
def test_shares_stay_within_bounds(seed: int, quadratic: float, absolute: float, game: Any) -> None:
    net = network(seed)
    table = Game(
        neuron_layers(net), Rules(game, "descent", 3.0, quadratic, absolute), Dynamics(rate=0.5, cost="paper", floor=0)
    )
    with table.gated():
        play(table, loss_of(net, seed), Schedule(5, 0.01), list(net.parameters()))
    for shares in table.shares.values():
        assert 0 <= shares.detach().min() <= shares.detach().max() <= 1


def test_removing_players_who_left_changes_no_logits() -> None:
    net = network()
    game = Game(neuron_layers(net), Rules())
    set_shares(game)
    kept = {}
    with torch.no_grad():
        for name, shares in game.shares.items():
            shares[::3] = 0
            kept[name] = shares.nonzero().flatten().tolist()
    inputs, _ = data()
    small = without(net, kept, game.shares)
    assert [each.out_features for each in small if isinstance(each, torch.nn.Linear)] == [8, 5, 3]
    assert (small(inputs) - gated_logits(game, net, inputs)).abs().max() <= 1e-5


def test_folding_shares_changes_no_logits() -> None:
    net = network()
    game = Game(neuron_layers(net), Rules())
    set_shares(game)
    inputs, _ = data()
    folded = without(net, {}, game.shares)
    assert (folded(inputs) - gated_logits(game, net, inputs)).abs().max() <= 1e-5
    assert torch.equal(without(net, {})(inputs), net(inputs))


def with_duplicate(seed: int = 0) -> torch.nn.Sequential:
    """Neurons 0 and 1 of the hidden layer have the same weights in and out."""
    net = network(seed, (6, 4, 3))
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = net[0].weight[0], net[0].bias[0]
        net[2].weight[:, 1] = net[2].weight[:, 0]
    return net


def utilities_of_a_pair(first: float, second: float, gain: float, rules: Rules) -> float:
    """Sum of both utilities for duplicates of norm 1 whose reward is `gain` for each unit."""
    own = gain * (first + second) - rules.quadratic * (first**2 + second**2) - rules.absolute * (first + second)
    return own - 2 * rules.competition * first * second


def of_duplicates(spread: float, game: Any) -> Mapping[str, torch.Tensor]:
    """Two duplicates play with competition; the loss is minus what the layer adds up to, up to 1."""
    net = with_duplicate()
    rules = Rules(game, "descent", 1.0, 0.1, 0.05, 3.0)
    table = Game(
        neuron_layers(net),
        rules,
        Dynamics(rate=0.05, floor=0, spread=spread),
        generator=torch.Generator().manual_seed(0),
    )
    [shares] = table.shares.values()

    def loss(step: int) -> torch.Tensor:
        return -0.5 * (shares[0] + shares[1])

    play(table, loss, Schedule(400, 1.0), look_every=10**6)
    return {"s": shares.detach()}


@pytest.mark.parametrize("game", ["utility", "potential"])
def test_of_two_duplicates_exactly_one_survives(game: Any) -> None:
    first, second = of_duplicates(0.01, game)["s"][:2].tolist()
    assert min(first, second) == 0
    assert max(first, second) == pytest.approx(1) if game == "potential" else max(first, second) > 0.5


def test_the_symmetric_point_loses() -> None:
    rules = Rules("potential", "descent", 1.0, 0.1, 0.05, 3.0)
    first, second = of_duplicates(0.0, "potential")["s"][:2].tolist()
    assert first == second
    assert 0 < first < 1  # nobody can part from an equal without a little chance
    both, one = utilities_of_a_pair(first, second, 0.5, rules), utilities_of_a_pair(1, 0, 0.5, rules)
    assert both < one


def test_a_layer_keeps_its_floor_whatever_the_price() -> None:
    net = network(widths=(6, 40, 40, 3))
    game = Game(neuron_layers(net), Rules(absolute=100.0), Dynamics(rate=0.05, floor=0.05))
    with game.gated():
        play(game, loss_of(net), Schedule(60, 0.01), list(net.parameters()))
    for gone in game.gone().values():
        assert int((~gone).sum()) == 2


def test_without_guards_a_layer_collapses() -> None:
    """What the floor is for."""
    net = network(widths=(6, 40, 40, 3))
    game = Game(neuron_layers(net), Rules(absolute=100.0), Dynamics(rate=0.05, cost="paper", floor=0))
    with game.gated():
        play(game, loss_of(net), Schedule(60, 0.01), list(net.parameters()))
    assert game.sparsity() == 1


def test_dead_players_count_as_gone_and_are_not_spared() -> None:
    net = network(widths=(6, 10, 3))
    with torch.no_grad():
        net[0].weight[:4], net[0].bias[:4] = 0, -1
    game = Game(neuron_layers(net), Rules(), Dynamics(floor=0.5))
    with game.gated():
        play(game, loss_of(net), Schedule(2, 0.0), look_every=1)
    [gone] = game.gone().values()
    assert gone.tolist() == [True] * 4 + [False] * 6
    assert set(game.ranked()["0"].topk(4, largest=False).indices.tolist()) == {0, 1, 2, 3}
    game.rules = Rules(absolute=100.0)
    with game.gated():
        play(game, loss_of(net), Schedule(40, 0.0), look_every=1)
    [shares] = game.shares.values()
    assert int((shares[:4] > 0).sum()) == 0
    assert int((shares > 0).sum()) == 5


def test_shares_add_up_to_the_quota_and_play_can_stop_early() -> None:
    net = network(widths=(6, 40, 20, 3))
    quota = {"0": 20, "2": 10}
    game = Game(neuron_layers(net), Rules(), Dynamics(rate=0.05, relative=True, smoothing=0.5), quota)
    with game.gated():
        losses = play(game, loss_of(net), Schedule(200, 0.01), list(net.parameters()), stop_at=0.2)
        assert len(losses) < 200
        assert game.sparsity() >= 0.2
        play(game, loss_of(net), Schedule(200, 0.01), list(net.parameters()))
        residuals = game.measure(loss_of(net), 1)
    for name, shares in game.shares.items():
        assert float(shares.detach().sum()) == pytest.approx(quota[name], abs=1e-3)
    assert residuals.shape == (60,)


def test_an_equilibrium_has_no_residual() -> None:
    net = with_duplicate()
    game = Game(neuron_layers(net), Rules("potential", "descent", 1.0, 0.5, 0.1), Dynamics(rate=0.05, cost="frozen"))
    [shares] = game.shares.values()
    gains = torch.tensor([0.5, 0.05, 3.0, 0.3])
    play(game, lambda step: -(gains * shares).sum(), Schedule(2000, 1.0), look_every=10**6)
    assert game.residuals().max() < 1e-4
    norms = net[0].weight.square().sum(1) + net[0].bias.square()
    expected = ((gains - 0.1) / (norms / norms.mean())).clamp(0, 1)
    torch.testing.assert_close(shares.detach(), expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("cost", "scales"), [("paper", True), ("normalised", False), ("frozen", False)])
def test_normalised_costs_do_not_see_the_scale_of_a_layer(cost: Any, scales: bool) -> None:
    ends = []
    for factor in (1.0, 3.0):
        net = network()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(factor)
        game = Game(neuron_layers(net), Rules(reward=0.0, quadratic=0.1), Dynamics(rate=0.01, cost=cost))
        with game.gated():
            play(game, loss_of(net), Schedule(10, 1.0))
        ends.append(torch.cat(list(game.shares.values())).detach())
    assert torch.allclose(*ends, atol=1e-6) != scales


def test_frozen_weights_stay() -> None:
    net = network()
    before = [each.detach().clone() for each in net.parameters()]
    game = Game(neuron_layers(net), Rules(absolute=0.5), Dynamics(rate=0.1))
    with game.gated():
        play(game, loss_of(net), Schedule(20, 0.5))
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    assert game.sparsity() > 0
