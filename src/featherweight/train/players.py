"""Players in a network: gates on the inputs of its linears, and the play that moves them while a loss is minimised.

A layer's players are neighbouring columns of the input of one linear (`reader`): neurons, FFN channels, the heads of a
key/value group. A gate multiplies them, which is the same as scaling the columns that read them. `play` runs
`train.loop.minimise`; after every update each player takes one projected gradient step on its utility
(`train.participation`), with these guards against the collapse of a layer, where costs hit the largest weights most
and what survives is what was never active:

- `cost`: |theta_i|^2 as it is ("paper"), divided by its layer's mean ("normalised"), or as it was at the start, divided
  by the layer's mean then ("frozen").
- `floor`: that share of a layer's live players never falls below one half.
- Players whose activation was zero ever since the last look are dead: they count as gone, and no floor spares them.
- A `quota` of players a layer: its price is the one that clears the market, moved from all to the quota over the first
  part of the play, and play may stop as soon as enough have left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from featherweight.core.lazy import torch
from featherweight.core.progress import Progress
from featherweight.train.loop import Schedule, minimise
from featherweight.train.participation import (
    Rules,
    benefits,
    best_response,
    clearing_price,
    marginal_utility,
    rivalry,
)

_SPARED = 0.5  # shares of the floor's players do not fall below it
_RAMP = 0.6  # of all steps: when the market has come down to the quota


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
        threshold: a player whose share is below it is gone.
        smoothing: weight of the past in the running mean of the slopes; 0 = the present batch alone, as in the paper.
        relative: measure benefits in units of their layer's mean size, so that rate and prices need no scale.
        spread: shares start at up to this much below 1, at random: equal players cannot part otherwise.
    """

    rate: float = 0.001
    cost: Literal["paper", "normalised", "frozen"] = "normalised"
    floor: float = 0.05
    threshold: float = 0.01
    smoothing: float = 0.0
    relative: bool = False
    spread: float = 0.0


class _Seat:
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


class Game:
    """All layers at play.

    Args:
        layers: who plays.
        rules: benefits and costs.
        dynamics: how players move.
        quota: players who are to stay, by layer; None = whoever the rules' prices leave.
        generator: of the start, where `dynamics.spread` asks for one.
    """

    def __init__(
        self,
        layers: Sequence[PlayerLayer],
        rules: Rules,
        dynamics: Dynamics | None = None,
        quota: Mapping[str, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.rules, self.dynamics, self.quota = rules, dynamics or Dynamics(), quota
        self._seats = {layer.name: _Seat(layer, self.dynamics.spread, generator) for layer in layers}
        self._progress = 0.0

    @property
    def shares(self) -> dict[str, torch.Tensor]:
        """s of every layer's players; live tensors."""
        return {name: seat.shares for name, seat in self._seats.items()}

    @contextmanager
    def gated(self) -> Iterator[None]:
        """While it lasts, the network computes with s_i theta_i."""
        handles = [seat.layer.reader.register_forward_pre_hook(seat.gate) for seat in self._seats.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self) -> None:
        """Takes the gradients from all gates; after `backward`."""
        for seat in self._seats.values():
            seat.take(self.dynamics.smoothing)

    def look(self) -> None:
        """Decides who is alive by what was active since the last look."""
        for seat in self._seats.values():
            seat.look()

    def move(self, progress: float = 1.0) -> None:
        """One step of every player; `progress` (0 to 1) says how far the market has come down to the quota."""
        self._progress = progress
        with torch.no_grad():
            for seat in self._seats.values():
                norms = self._norms(seat)
                step = marginal_utility(self.rules, self._net(seat), seat.shares, norms)
                self._spare(seat, (seat.shares + self.dynamics.rate * step).clamp_(0, 1))

    def _norms(self, seat: _Seat) -> torch.Tensor:
        if self.rules.quadratic == 0:
            return torch.zeros_like(seat.first_norms)
        now = seat.first_norms if self.dynamics.cost == "frozen" else seat.norms()
        return now if self.dynamics.cost == "paper" else now / now.mean().clamp(min=1e-30)

    def _net(self, seat: _Seat) -> torch.Tensor:
        """reward * benefit - price - competition * rivalry; sets the price where there is a quota."""
        assert seat.slopes is not None, "play a step first"
        gains = self.rules.reward * benefits(self.rules, seat.shares.detach(), seat.slopes)
        if self.dynamics.relative:
            gains = gains / gains.abs().mean().clamp(min=1e-30)
        if self.rules.competition:
            owned = seat.layer.owned().detach()
            unit = 1.0 if self.dynamics.cost == "paper" else owned.square().sum(1).mean().clamp(min=1e-30)
            gains = gains - self.rules.competition * rivalry(owned, seat.shares.detach()) / unit
        if self.quota is None:
            seat.price = torch.full_like(seat.price, self.rules.absolute)
        else:
            leaving = seat.layer.count - self.quota[seat.layer.name]
            alive = gains.masked_fill(~seat.live, float(gains.min()) - 1)  # the dead leave first
            seat.price = clearing_price(alive, seat.layer.count - round(leaving * self._progress))
        return gains - seat.price

    def _spare(self, seat: _Seat, moved: torch.Tensor) -> None:
        """Sets the new shares; the floor's players keep theirs where they would fall below one half."""
        spared = min(-(-self.dynamics.floor * seat.layer.count // 1), int(seat.live.sum()))
        if spared:
            best = moved.masked_fill(~seat.live, -1.0).topk(int(spared)).indices
            moved[best] = torch.maximum(moved[best], seat.shares[best].clamp(max=_SPARED))
        seat.shares.copy_(moved)

    def gone(self) -> dict[str, torch.Tensor]:
        """Who has left or is dead, bool [players] by layer."""
        below = {name: seat.shares.detach() < self.dynamics.threshold for name, seat in self._seats.items()}
        return {name: each | ~self._seats[name].live for name, each in below.items()}

    def sparsity(self) -> float:
        """Share of all players that is gone."""
        gone = self.gone().values()
        return sum(int(each.sum()) for each in gone) / sum(len(each) for each in gone)

    def ranked(self) -> dict[str, torch.Tensor]:
        """A score by layer that orders players: the dead last, then by share, of equal shares by benefit."""
        scores = {}
        for name, seat in self._seats.items():
            slopes = torch.zeros_like(seat.activity) if seat.slopes is None else seat.slopes
            gains = benefits(Rules("potential", self.rules.benefit), seat.shares.detach(), slopes)
            order = torch.stack([gains, seat.shares.detach(), seat.live.float()]).cpu()
            position = torch.arange(seat.layer.count)
            for key in order:  # stable sorts, the least important key first
                position = position[key[position].sort(stable=True).indices]
            scores[name] = torch.empty(seat.layer.count).scatter_(0, position, torch.arange(seat.layer.count) * 1.0)
        return scores

    def residuals(self) -> torch.Tensor:
        """|s_i - best response of i| of all players, at the slopes taken last."""
        found = []
        with torch.no_grad():
            for seat in self._seats.values():
                response = best_response(self.rules, self._net(seat), self._norms(seat))
                found.append((seat.shares - response).abs().cpu())
        return torch.cat(found)

    def measure(self, loss: Callable[[int], torch.Tensor], batches: int) -> torch.Tensor:
        """Slopes and activity over whole data instead of one batch; returns the residuals there."""
        for seat in self._seats.values():
            seat.slopes, seat.shares.grad = None, None
            seat.activity = torch.zeros_like(seat.activity)
        with torch.enable_grad():
            for index in range(batches):
                gradients = torch.autograd.grad(loss(index) / batches, list(self.shares.values()), allow_unused=True)
                for seat, gradient in zip(self._seats.values(), gradients, strict=True):
                    if gradient is not None:
                        seat.shares.grad = gradient if seat.shares.grad is None else seat.shares.grad + gradient
        self.take()
        self.look()
        return self.residuals()


def play(
    game: Game,
    loss: Callable[[int], torch.Tensor],
    schedule: Schedule,
    weights: Sequence[torch.Tensor] = (),
    look_every: int = 50,
    stop_at: float | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Trains `weights` (none: they are frozen) by the schedule while the players move; the loss of every step.

    Args:
        game: who plays; its gates must be on.
        loss: of a step, as `minimise` calls it.
        schedule: number of steps, and the learning rates of the weights.
        weights: leaf tensors to be trained by AdamW.
        look_every: steps between two decisions who is alive.
        stop_at: sparsity at which play ends.
        progress: what is told of every step.
    """
    shares = list(game.shares.values())

    def move(step: int) -> None:
        game.move(min((step + 1) / max(_RAMP * schedule.steps, 1), 1.0))
        if (step + 1) % look_every == 0:
            game.look()

    return minimise(
        weights or shares,
        loss,
        schedule,
        label="playing",
        progress=progress,
        # Gates are moved by `move`: their gradients are taken away before this optimizer sees them.
        optimizer=None if weights else torch.optim.SGD(shares),
        clip=1.0 if weights else None,
        before_update=lambda step: game.take(),
        after_update=move,
        stop=lambda step, value: stop_at is not None and game.sparsity() >= stop_at,
    )
