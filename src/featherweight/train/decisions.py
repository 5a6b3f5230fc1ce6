"""The open decisions of a search: logits, their expected choice, samples with gradients, and when one is settled.

Widths and formats are mixed: their weights are drawn from a Dirichlet distribution with concentrations elu(logit) + 1,
which is near one option or the other as often as between them. Depth is drawn: one number of blocks, with ReinMax's
gradient, because half a block exists in no candidate. Concentrations as in DrNAS; arXiv 2606.04063 names the
distributions and gives no values. It knows options by position only, and no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from featherweight.core.lazy import torch
from featherweight.core.numerics import reinmax
from featherweight.train.space import Choice, Space

Draw = Mapping[str, "torch.Tensor"]
"""Weights of the options, [options] summing to 1, by decision: a sample, or the expected choice."""

_TEMPERATURE = 1.0  # of ReinMax; at 1 its gradient is unbiased for quadratic objectives


class Decisions:
    """Logits of every decision of a space.

    Args:
        space: the decisions.
        generator: draws samples.
        drawn: decisions that are sampled one-hot with ReinMax; all others are mixed with Dirichlet weights.
    """

    def __init__(self, space: Space, generator: torch.Generator, drawn: Sequence[str] = ("blocks",)) -> None:
        self.space, self.generator, self.drawn = space, generator, tuple(drawn)
        self.logits = {name: torch.zeros(len(each)) for name, each in space.options.items()}
        self.alive = {name: torch.ones(len(each), dtype=torch.bool) for name, each in space.options.items()}

    @property
    def open(self) -> list[str]:
        """Decisions that still have more than one option."""
        return [name for name, alive in self.alive.items() if int(alive.sum()) > 1]

    def probabilities(self) -> dict[str, torch.Tensor]:
        """The mean of what is drawn, with gradients."""
        return {name: self._mean(name) for name in self.logits}

    def _mean(self, name: str) -> torch.Tensor:
        alive = self.alive[name]
        if name in self.drawn:
            return self.logits[name].masked_fill(~alive, -torch.inf).softmax(-1)
        concentration = self._concentration(name) * alive
        return concentration / concentration.sum()

    def _concentration(self, name: str) -> torch.Tensor:
        return torch.nn.functional.elu(self.logits[name]) + 1 + 1e-3  # zero is no concentration

    def sample(self) -> dict[str, torch.Tensor]:
        """One draw of every decision, with gradients with respect to the logits."""
        return {name: self._drawn(name) for name in self.logits}

    def _drawn(self, name: str) -> torch.Tensor:
        alive = self.alive[name]
        logits = self.logits[name]
        if int(alive.sum()) == 1:
            return alive.float()
        if name in self.drawn:
            kept = reinmax(logits[alive], self.generator, _TEMPERATURE)
        else:
            kept = _dirichlet(self._concentration(name)[alive], self.generator)
        return torch.zeros_like(logits).masked_scatter(alive, kept)

    def entropy(self, name: str) -> float:
        """Of the expected choice, as a share of the largest that the options which are left allow."""
        alive = self.alive[name]
        count = int(alive.sum())
        if count == 1:
            return 0.0
        mean = self._mean(name).detach()[alive]
        return float(-(mean * mean.clamp(min=1e-12).log()).sum()) / math.log(count)

    def settle(self, threshold: float) -> list[str]:
        """Drops the weak options (less than an even share) of decisions whose entropy is low enough; names them."""
        settled = [name for name in self.open if self.entropy(name) < threshold]
        for name in settled:
            alive = self.alive[name]
            self.alive[name] = alive & (self._mean(name).detach() >= 1 / int(alive.sum()))
        return settled

    def log_probability(self, choice: Choice) -> float:
        """Logarithm of the probability of a choice when every decision is taken on its own."""
        means = {name: each.detach() for name, each in self.probabilities().items()}
        positions = {name: self.space.options[name].index(option) for name, option in choice.items()}
        return sum(math.log(max(float(means[name][place]), 1e-12)) for name, place in positions.items())


def one_hot(space: Space, choice: Choice) -> dict[str, torch.Tensor]:
    """The draw that is one choice for certain."""
    return {
        name: torch.nn.functional.one_hot(torch.tensor(options.index(choice[name])), len(options)).float()
        for name, options in space.options.items()
    }


def _dirichlet(concentration: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A sample with gradients; torch's distributions take no generator, so the global one is set and put back."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.distributions.Dirichlet(concentration).rsample()
