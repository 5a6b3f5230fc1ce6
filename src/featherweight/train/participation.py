"""Pruning as a game, the mathematics: what taking part pays and costs, and what a player does about it.

Player i holds weights theta_i and takes part by s_i in [0, 1]; the network computes with s_i theta_i. The utility of
arXiv 2512.22106, with c_i the rivalry sum_{j != i} s_j <theta_i, theta_j>, is

    U_i = reward s_i <dL/dtheta_i, theta_i> - quadratic |theta_i|^2 s_i^2 - absolute |s_i| - competition s_i c_i

and a player moves along dU_i/ds_i with the inner product held constant. Two things in it are made explicit here:

- `benefit`. The inner product as printed ("paper") rewards what raises the loss; "descent" is its negative.
- `game`. Because theta_i enters as s_i theta_i, <dL/dtheta_i, theta_i> = s_i dL/ds_i, which is 0 wherever the weights
  are trained: with any cost the only equilibrium of the "utility" game is the empty network, and what it leaves is a
  matter of when it is stopped. In the "potential" game the benefit is dL/ds_i itself (our addition): every player then
  climbs the one function -L - costs, whose equilibria are stationary points of a gated loss.

Both benefits follow from dL/ds, so no gradient of any weight is needed. This file knows tensors of one layer's players
and no network; `train.players` puts gates into modules, `train.game` plays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from featherweight.core.lazy import torch


@dataclass(frozen=True)
class Rules:
    """What players are paid and what they pay.

    Attributes:
        game: "utility" (the paper's benefit) or "potential" (the slope of the loss).
        benefit: "descent" pays for lowering the loss, "paper" for raising it, as printed.
        reward: alpha, factor of the benefit.
        quadratic: beta, price of |theta_i|^2 s_i^2.
        absolute: gamma, price of |s_i|.
        competition: eta, price of the inner product with the other players of the layer.
    """

    game: Literal["utility", "potential"] = "potential"
    benefit: Literal["descent", "paper"] = "descent"
    reward: float = 1.0
    quadratic: float = 0.0
    absolute: float = 0.0
    competition: float = 0.0


def benefits(rules: Rules, shares: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """What one more unit of participation pays each player, before the reward's factor.

    Args:
        rules: which game, and which sign.
        shares: s, [players].
        slopes: dL/ds, [players].
    """
    own = shares * slopes if rules.game == "utility" else slopes
    return own if rules.benefit == "paper" else -own


def rivalry(owned: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """sum_{j != i} s_j <theta_i, theta_j>, [players], without the matrix of all inner products.

    Args:
        owned: theta, [players, weights].
        shares: s, [players].
    """
    return owned @ (owned.T @ shares) - shares * owned.square().sum(1)


def marginal_utility(rules: Rules, net: torch.Tensor, shares: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """dU_i/ds_i, [players].

    On [0, 1] the slope of |s| is 1 everywhere, at 0 too, where only increases are possible.

    Args:
        rules: the price of |theta|^2 s^2.
        net: reward * benefit - absolute - competition * rivalry, [players]; whoever has yet to find the price leaves
            `absolute` out and takes it off the result.
        shares: s, [players].
        norms: |theta_i|^2, [players].
    """
    return net - 2 * rules.quadratic * norms * shares


def best_response(rules: Rules, net: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """clip(net_i / (2 quadratic |theta_i|^2), 0, 1): where a player would go if all others stayed, [players].

    Players with `net` <= 0 leave. Without a quadratic cost it is all or nothing.
    """
    curvature = 2 * rules.quadratic * norms
    interior = net / curvature.clamp(min=torch.finfo(net.dtype).tiny)
    return torch.where(curvature > 0, interior.clamp(0, 1), (net > 0).to(net.dtype))


def clearing_price(aimed: torch.Tensor, rate: float, stay: float) -> torch.Tensor:
    """The price at which shares add up to `stay` after a step: sum_i clip(aimed_i - rate * price, 0, 1) = stay.

    Moving so is projected gradient ascent under that constraint, and the price its multiplier: at rest everybody with
    a share inside (0, 1) gains exactly the price, those at 1 more, those at 0 less.

    Args:
        aimed: where players would go at price 0, [players].
        rate: step of a share along its marginal utility.
        stay: 0 to the number of players.
    """
    # The sum is piecewise linear in the price, with a bend where anybody reaches 0 or 1.
    bends, order = torch.cat([aimed, aimed - 1]).sort(descending=True)
    inside = torch.ones_like(aimed)
    moving = torch.cat([inside, -inside])[order].cumsum(0)[:-1]  # players between 0 and 1 below each bend
    sums = torch.nn.functional.pad((moving * (bends[:-1] - bends[1:])).cumsum(0), (1, 0))
    at = int(torch.searchsorted(sums, stay).clamp(1, len(moving))) - 1
    return (bends[at] - (stay - sums[at]) / moving[at].clamp(min=1)) / rate


def share_from_costs_alone(rules: Rules, norm: float, elapsed: float) -> float:
    """s after playing for `elapsed` = rate * steps from s = 1 without any benefit, |theta|^2 constant.

    (1 + absolute/k) exp(-k elapsed) - absolute/k with k = 2 quadratic |theta|^2: what a stopping time alone prunes.
    """
    decay = 2 * rules.quadratic * norm
    if decay == 0:
        return max(1 - rules.absolute * elapsed, 0.0)
    floor = rules.absolute / decay
    return max((1 + floor) * math.exp(-decay * elapsed) - floor, 0.0)
