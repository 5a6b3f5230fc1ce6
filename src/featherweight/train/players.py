"""Players in a network: gates on the inputs of its linears, the slopes of a loss there, and who was ever active.

A layer's players are neighbouring columns of the input of one linear (`reader`): neurons, FFN channels, the heads of a
key/value group. A gate multiplies them, which is the same as scaling the columns that read them. How players move is
`train.game`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from featherweight.core.lazy import torch


@dataclass(frozen=True)
class PlayerLayer:
    """The players of one layer.

    Attributes:
        name: unique.
        reader: the linear whose input they are.
        count: how many.
        width: neighbouring columns a player.
        owned: their present weights, [players, weights].
    """

    name: str
    reader: torch.nn.Module
    count: int
    width: int
    owned: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Dynamics:
    """How players move.

    Attributes:
        rate: step of a share along its marginal utility.
        cost: how |theta_i|^2 counts in costs: "paper", "normalised" or "frozen".
        floor: share of a layer's live players that is spared.
        dead_leave: players who were never active lately have to go.
        threshold: a player whose share is below it is gone.
        smoothing: weight of the past in the running mean of the slopes; 0 = the present batch alone, as in the paper.
        relative: measure benefits in units of their layer's mean size, so that rate and prices need no scale.
        spread: shares start at up to this much below 1, at random: equal players cannot part otherwise.
    """

    rate: float = 0.001
    cost: Literal["paper", "normalised", "frozen"] = "normalised"
    floor: float = 0.05
    dead_leave: bool = True
    threshold: float = 0.01
    smoothing: float = 0.0
    relative: bool = False
    spread: float = 0.0


class Seat:
    """One layer at play: its gate, the slope of the loss there, and what was ever active."""

    def __init__(self, layer: PlayerLayer, spread: float, generator: torch.Generator | None) -> None:
        self.layer = layer
        device = next(layer.reader.parameters()).device
        start = torch.ones(layer.count)
        if spread:
            start -= spread * torch.rand(layer.count, generator=generator)
        self.shares = start.to(device).requires_grad_(True)
        self.slopes: torch.Tensor | None = None
        self.activity = torch.zeros(layer.count, device=device)
        self.live = torch.ones(layer.count, dtype=torch.bool, device=device)
        self.first_norms = self.norms()
        self.price = torch.zeros((), device=device)

    def gate(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Multiplies the reader's input; a forward pre-hook."""
        first, *rest = inputs
        with torch.no_grad():
            sizes = first.abs().reshape(-1, self.layer.count, self.layer.width).amax((0, 2))
            self.activity = torch.maximum(self.activity, sizes)
        return (first * self.shares.repeat_interleave(self.layer.width), *rest)

    def norms(self) -> torch.Tensor:
        """|theta_i|^2 of the present weights, [players]."""
        return self.layer.owned().detach().square().sum(1)

    def take(self, smoothing: float) -> None:
        """Moves the gradient at the gate into the running mean of slopes."""
        new = torch.zeros_like(self.shares) if self.shares.grad is None else self.shares.grad.detach().clone()
        self.slopes = new if self.slopes is None else smoothing * self.slopes + (1 - smoothing) * new
        self.shares.grad = None

    def look(self) -> None:
        """Decides who is alive by what was active since the last look."""
        self.live = self.activity > 0
        self.activity = torch.zeros_like(self.activity)
