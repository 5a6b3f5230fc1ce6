"""Handwritten digits (scikit-learn's, 8 x 8) and a perceptron 64-128-64-10: where neurons can be pruned in seconds.

Training pictures and test pictures are the same for every seed; a seed decides the start and the order of batches.
"""

from __future__ import annotations

import functools

import torch

from featherweight.core.errors import MissingExtra
from featherweight.train.game import Game, play
from featherweight.train.loop import Schedule, minimise, shuffled

WIDTHS = (64, 128, 64, 10)
TEST, BATCH, RATE = 450, 128, 1e-3


@functools.cache
def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training pictures and labels, test pictures and labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("the digits", "scikit-learn") from None
    inputs, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    values, targets = torch.tensor(inputs, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return values[TEST:], targets[TEST:], values[:TEST], targets[:TEST]


def steps_of(epochs: int) -> int:
    """Updates in so many epochs."""
    return epochs * (len(pictures()[0]) // BATCH)


def perceptron(seed: int) -> torch.nn.Sequential:
    """Fresh, with ReLU."""
    torch.manual_seed(seed)
    first, second, third, last = WIDTHS
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    return torch.nn.Sequential(linear(first, second), relu(), linear(second, third), relu(), linear(third, last))


def train(
    network: torch.nn.Sequential, epochs: int, seed: int, game: Game | None = None, stop_at: float | None = None
) -> list[float]:
    """Trains in place by Adam at a constant rate, while a game is played if there is one; the loss of every step."""
    inputs, labels, _, _ = pictures()
    batch_of = shuffled(len(inputs), BATCH, torch.Generator().manual_seed(seed))

    def loss(step: int) -> torch.Tensor:
        rows = batch_of(step)
        return torch.nn.functional.cross_entropy(network(inputs[rows]), labels[rows])

    schedule = Schedule(steps_of(epochs), RATE, decay="none")
    weights = list(network.parameters())
    if game is None:
        return minimise(weights, loss, schedule)
    with game.gated():
        losses = play(game, loss, schedule, weights, look_every=steps_of(1), stop_at=stop_at)
        game.measure(lambda _: torch.nn.functional.cross_entropy(network(inputs), labels), 1)
    return losses


def errors(network: torch.nn.Sequential) -> list[float]:
    """1 for every test picture that is misread, else 0."""
    _, _, inputs, labels = pictures()
    with torch.no_grad():
        return (network(inputs).argmax(1) != labels).double().tolist()
