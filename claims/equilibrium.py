"""Pruning as a game on digits and on a small language model. `python -m claims.equilibrium`.

Digits: a perceptron 64-128-64-10 plays while it trains for 60 epochs; then half of the hidden neurons are removed and
nothing is trained afterwards. "market" is our clearing price with all guards; "gamma" a fixed price with all guards,
where play stops when half has left and rank decides on the rest; "as printed" the paper's costs without any guard,
where whoever is below epsilon goes. Controls train for as many epochs and lose half of each layer half way. Losses are
the share of test pictures that are misread; a margin of 0.02 is two points of accuracy.

Language model: three small Llama blocks, trained here on calibration text; half of the FFN channels go, weights stay.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from claims.digits import errors, perceptron, pictures, steps_of, train
from claims.experiment import CALIBRATION_ROWS, EVALUATION_ROWS, LENGTH, SEEDS, Experiment, Statement
from claims.small_language import KEPT, Language, play_language
from featherweight.train.game import Game
from featherweight.train.neurons import neuron_layers, without
from featherweight.train.participation import Rules, share_from_costs_alone
from featherweight.train.players import Dynamics

CLAIM = (
    "Neurons that play a game over their participation leave by themselves when it does not pay, and what stays is as"
    " good as what importance scores choose (arXiv 2512.22106)."
)
EPOCHS = 60
MARGIN = 0.02  # two points, for games against magnitude pruning at the same sparsity
PRINTED_MARGIN = 0.1  # the paper's own table reaches about 90 %
PAPER_PLAY = 0.001 * 9380  # rate times steps: 20 epochs of 469 batches of MNIST
PRINTED = {
    "beta 0.1": (0.1, 0.0),
    "beta 0.5": (0.5, 0.0),
    "beta 0.001, gamma 0.1": (0.001, 0.1),
    "beta 0.05, gamma 0.05": (0.05, 0.05),
}
GAMMAS = (0.03, 0.1, 0.3)
BOTH_GAMES: tuple[Literal["utility", "potential"], ...] = ("utility", "potential")
BOTH_SIGNS: tuple[Literal["descent", "paper"], ...] = ("descent", "paper")


class Digits(Experiment):
    """Measures ways of pruning the perceptron."""

    def variant(self, name: str, make: Callable[[int], torch.nn.Sequential]) -> None:
        """Test errors of one way, every seed."""
        self.losses[name] = [errors(make(seed)) for seed in SEEDS]
        mean = torch.tensor(self.losses[name]).mean()
        print(f"{time.monotonic() - self.started:5.0f} s  {name:50s} {mean:.4f}", flush=True)


def scored(choose: Callable[[torch.nn.Sequential, str, int], torch.Tensor]) -> Callable[[int], torch.nn.Sequential]:
    """Half of the epochs, then each layer keeps the half with the highest scores, then the other half."""

    def make(seed: int) -> torch.nn.Sequential:
        network = perceptron(seed)
        train(network, EPOCHS // 2, seed)
        kept = {}
        for layer in neuron_layers(network):
            scores = choose(network, layer.name, seed)
            kept[layer.name] = sorted(scores.topk(round(KEPT * layer.count)).indices.tolist())
        smaller = without(network, kept)
        train(smaller, EPOCHS // 2, seed + 100)
        return smaller

    return make


def dense(seed: int) -> torch.nn.Sequential:
    network = perceptron(seed)
    train(network, EPOCHS, seed)
    return network


def by_magnitude(network: torch.nn.Sequential, place: str, seed: int) -> torch.Tensor:
    [layer] = [each for each in neuron_layers(network) if each.name == place]
    return layer.owned().detach().square().sum(1)


def by_contribution(network: torch.nn.Sequential, place: str, seed: int) -> torch.Tensor:
    """The score of `width`: mean square of the activation times that of the weights that read it."""
    [layer] = [each for each in neuron_layers(network) if each.name == place]
    with torch.no_grad():
        activation = network[: int(place) + 2](pictures()[0])
        return activation.square().mean(0) * layer.reader.weight.square().sum(0)


def by_chance(network: torch.nn.Sequential, place: str, seed: int) -> torch.Tensor:
    return torch.rand(network.get_submodule(place).out_features, generator=torch.Generator().manual_seed(seed))


class Played:
    """Plays once a seed and keeps how each game ended."""

    def __init__(self, rules: Rules, dynamics: Dynamics, clearing: bool = False) -> None:
        self.rules, self.dynamics, self.clearing = rules, dynamics, clearing
        self.ends: list[dict[str, Any]] = []

    def __call__(self, seed: int) -> torch.nn.Sequential:
        network = perceptron(seed)
        layers = neuron_layers(network)
        quota = {layer.name: round(KEPT * layer.count) for layer in layers}
        game = Game(layers, self.rules, self.dynamics, quota if self.clearing else None)
        train(network, EPOCHS, seed, game, stop_at=1 - KEPT if not self.clearing else None)
        gone = game.gone()
        self.ends.append(
            {
                "left by themselves": round(game.sparsity(), 4),
                "kept of each layer": [round(1 - float(each.float().mean()), 4) for each in gone.values()],
                "residual, largest and mean": [
                    round(float(game.residuals().max()), 4),
                    round(float(game.residuals().mean()), 4),
                ],
            }
        )
        return without(network, _matched(game), {name: each.detach() for name, each in game.shares.items()})


class AsPrinted(Played):
    """No guards, no matching: everybody below epsilon goes, which may be a whole layer."""

    def __call__(self, seed: int) -> torch.nn.Sequential:
        network = perceptron(seed)
        game = Game(neuron_layers(network), self.rules, self.dynamics)
        train(network, EPOCHS, seed, game)
        below = {name: each.detach() < self.dynamics.threshold for name, each in game.shares.items()}
        removed = sum(int(each.sum()) for each in below.values()) / sum(len(each) for each in below.values())
        self.ends.append({"removed": round(removed, 4), "dead among the kept": _dead(game, below)})
        shares = {name: each.detach() * ~below[name] for name, each in game.shares.items()}
        return without(network, {}, shares)


def _dead(game: Game, below: Mapping[str, torch.Tensor]) -> int:
    return sum(int((gone & ~below[name]).sum()) for name, gone in game.gone().items())


def _matched(game: Game) -> dict[str, list[int]]:
    """Half of all neurons, ranked over both layers, and never less than the floor of a layer."""
    ranked, shares, gone = game.ranked(), game.shares, game.gone()
    keys = []
    for name, scores in ranked.items():
        floor = scores >= len(scores) - max(round(game.dynamics.floor * len(scores)), 1)
        for index in range(len(scores)):
            share = float(shares[name][index].detach())
            keys.append(
                (
                    bool(floor[index]),
                    not bool(gone[name][index]),
                    share,
                    float(scores[index]) / len(scores),
                    name,
                    index,
                )
            )
    best = sorted(keys, reverse=True)[: round(KEPT * len(keys))]
    return {name: sorted(key[5] for key in best if key[4] == name) for name in ranked}


def play_digits(experiment: Digits) -> dict[str, Any]:
    """All games; how they ended, by variant."""
    rate = PAPER_PLAY / steps_of(EPOCHS)
    guarded = Dynamics(rate=rate)
    market = Dynamics(rate=0.02, relative=True, smoothing=0.9)
    bare = Dynamics(rate=rate, cost="paper", floor=0.0, dead_leave=False)
    games: dict[str, Played] = {}
    for game, sign in itertools.product(BOTH_GAMES, BOTH_SIGNS):
        games[f"{game}, {sign} sign, market"] = Played(Rules(game, sign), market, clearing=True)
        for gamma in GAMMAS:
            games[f"{game}, {sign} sign, gamma {gamma}"] = Played(Rules(game, sign, absolute=gamma), guarded)
    for name, (quadratic, absolute) in PRINTED.items():
        rules = Rules("utility", "paper", quadratic=quadratic, absolute=absolute)
        games[f"as printed, {name}"] = AsPrinted(rules, bare)
    for name, each in games.items():
        experiment.variant(name, each)
    return {name: each.ends for name, each in games.items()}


def main() -> str:
    torch.set_num_threads(1)
    language = Language("equilibrium", CLAIM)
    play_language(language)
    digits = Digits("equilibrium", CLAIM, unit="share misread")
    digits.variant("dense", dense)
    digits.variant("magnitude", scored(by_magnitude))
    digits.variant("contribution", scored(by_contribution))
    digits.variant("random", scored(by_chance))
    ends = play_digits(digits)
    games = [name for name in ends if not name.startswith("as printed")]
    printed = [name for name in ends if name.startswith("as printed")]
    statements = [Statement(name, "magnitude", MARGIN) for name in games]
    statements += [Statement(name, "dense", PRINTED_MARGIN) for name in printed]
    against = [language.compare(Statement("game", other)) for other in ("random", "magnitude", "width")]
    for each in against:
        each["statement"] += " (small Llama, nats per token)"
    nll = {name: [round(sum(row) / len(row), 4) for row in seeds] for name, seeds in language.losses.items()}
    facts = {
        "model": "a perceptron 64-128-64-10 on scikit-learn's digits, and a three-block Llama trained by the claim",
        "calibration": f"{EPOCHS} epochs (digits), {CALIBRATION_ROWS} rows of {LENGTH} tokens, seeds {list(SEEDS)}",
        "evaluation": f"450 test pictures (digits), {EVALUATION_ROWS} held-out rows of {LENGTH} tokens",
        "nll_language": nll,
        "ends": ends,
        "share_left_by_costs_alone": {
            name: round(share_from_costs_alone(Rules(quadratic=beta, absolute=gamma), 1.0, PAPER_PLAY), 4)
            for name, (beta, gamma) in PRINTED.items()
        },
    }  # fmt: skip
    return digits.conclude(statements, facts, against)


if __name__ == "__main__":
    main()
