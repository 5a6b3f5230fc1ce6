"""The play: a loss is minimised while every player moves along its utility, and nobody's layer may collapse.

`play` runs `train.loop.minimise`; after every update each player takes one projected gradient step
(`train.participation`), with these guards against the collapse of a layer, where costs hit the largest weights most and
what survives is what was never active:

- `cost`: |theta_i|^2 as it is ("paper"), divided by its layer's mean ("normalised"), or as it was at the start, divided
  by the layer's mean then ("frozen").
- `floor`: that share of a layer's live players never falls below one half.
- Players whose activation was zero ever since the last look are dead: they count as gone, and no floor spares them.
- A `quota` of players a layer: its price is the one at which shares add up to the quota, which comes down from all over
  the first part of the play; and play may stop as soon as enough have left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

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
from featherweight.train.players import Dynamics, PlayerLayer, Seat

_SPARED = 0.5  # shares of the floor's players do not fall below it
_RAMP = 0.6  # of all steps: when the market has come down to the quota
_CREEP = 0.01  # of the rate is left when players are at rest: prices are found by dividing by it


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
        self._seats = {layer.name: Seat(layer, self.dynamics.spread, generator) for layer in layers}

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
        """One step of every player; `progress` (0 to 1) says how much of the play is over."""
        with torch.no_grad():
            for seat in self._seats.values():
                rate = self.dynamics.rate * self._slowing(progress)
                unpriced = marginal_utility(self.rules, self._gains(seat), seat.shares, self._norms(seat))
                seat.price = self._price(seat, seat.shares + rate * unpriced, rate, progress)
                self._spare(seat, seat.shares + rate * (unpriced - seat.price))

    def _norms(self, seat: Seat) -> torch.Tensor:
        """|theta_i|^2 as it counts in costs, [players]."""
        if self.rules.quadratic == 0:
            return torch.zeros_like(seat.first_norms)
        now = seat.first_norms if self.dynamics.cost == "frozen" else seat.norms()
        return now if self.dynamics.cost == "paper" else now / now.mean().clamp(min=1e-30)

    def _gains(self, seat: Seat) -> torch.Tensor:
        """reward * benefit - competition * rivalry, [players]; the dead gain less than anybody."""
        assert seat.slopes is not None, "play a step first"
        gains = self.rules.reward * benefits(self.rules, seat.shares.detach(), seat.slopes)
        if self.dynamics.relative:
            gains = gains / gains.abs().mean().clamp(min=1e-30)
        if self.rules.competition:
            owned = seat.layer.owned().detach()
            unit = 1.0 if self.dynamics.cost == "paper" else owned.square().sum(1).mean().clamp(min=1e-30)
            gains = gains - self.rules.competition * rivalry(owned, seat.shares.detach()) / unit
        return torch.where(seat.live, gains, gains.min() - 1) if self.dynamics.dead_leave else gains

    def _price(self, seat: Seat, aimed: torch.Tensor, rate: float, progress: float) -> torch.Tensor:
        """The rules' price, or the one that leaves as many shares as the way to the quota allows by now."""
        if self.quota is None:
            return torch.full_like(seat.price, self.rules.absolute)
        leaving = seat.layer.count - self.quota[seat.layer.name]
        return clearing_price(aimed, rate, seat.layer.count - leaving * min(progress / _RAMP, 1.0))

    def _slowing(self, progress: float) -> float:
        """Factor of the rate: with a quota players come to rest once it is reached."""
        return 1.0 if self.quota is None else min((1 - progress) / (1 - _RAMP), 1.0) + _CREEP

    def _spare(self, seat: Seat, aimed: torch.Tensor) -> None:
        """Sets the new shares; the floor's players keep theirs where they would fall below one half."""
        moved = aimed.clamp(0, 1)
        spared = min(math.ceil(self.dynamics.floor * seat.layer.count), int(seat.live.sum()))
        best = ranking(aimed, seat.shares, seat.live.float())[:spared]
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
            order = ranking(gains, seat.shares.detach(), seat.live.float()).cpu()
            places = torch.arange(len(order), 0, -1, dtype=torch.float32)
            scores[name] = torch.empty(len(order)).scatter_(0, order, places)
        return scores

    def residuals(self) -> torch.Tensor:
        """|s_i - best response of i| of all players, at the slopes taken last."""
        found = []
        with torch.no_grad():
            for seat in self._seats.values():
                response = best_response(self.rules, self._gains(seat) - seat.price, self._norms(seat))
                found.append((seat.shares - response).abs().cpu())
        return torch.cat(found)

    def measure(self, loss: Callable[[int], torch.Tensor], batches: int) -> torch.Tensor:
        """Slopes and activity over whole data instead of one batch; returns the residuals there.

        Args:
            loss: of a batch by its number.
            batches: how many there are.
        """
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


def ranking(*keys: torch.Tensor) -> torch.Tensor:
    """Players from best to worst by the last key, of equal ones by the key before it, and so on."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in keys:
        order = order[key[order].sort(descending=True, stable=True).indices]
    return order


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
        game.move((step + 1) / schedule.steps)
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
