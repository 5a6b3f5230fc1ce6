"""Pruning as a game: FFN channels and key/value groups take part by a share in [0, 1]; whom it does not pay, leaves.

The game is arXiv 2512.22106 with the repairs of `train.participation` and the guards of `train.game`. A player is an
FFN channel (its gate and up rows and its down column) or a key/value group (query, key and value rows, output columns);
its share s multiplies the channel's activation, or the group's output. <dL/dtheta_i, theta_i> is then the same number
for the up (value) rows and for the down (output) columns: s_i dL/ds_i. Costs count all weights that leave with a
player. L is the next-token loss on the calibration text. Benefits are in units of their layer's mean size.

Stock classes need equally many channels in every block, and no single price gives that. So by default every layer of
every block is a market of its own: its price keeps the sum of all shares at what the layer is to keep, from all at the
start to `ffn` (`groups`) after three fifths of the steps; in the others players come to rest. With a fixed `price` the
blocks come out unequal. Then, as for anybody near the edge, rank decides: live players before dead ones, larger shares
first, of equal shares the larger benefit; blocks with too few get players back, blocks with too many lose more. How
many were decided so is reported, and so is the best-response residual |s - BR(s)|: 0 for all means an equilibrium.
Without a quadratic cost a best response is all or nothing, so whoever is undecided at the price shows a large one.

The whole model and the graph of a few token rows are in memory. Nothing says that the result is better than choosing
channels by their contribution: `width` is the control, `choose` gives two more.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from featherweight.core.architecture import Architecture
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.parts import Part, PartPruner, part_linears, part_weights
from featherweight.core.run import Rewrite, Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.sparsity import like
from featherweight.core.technique import Need, Paper, technique
from featherweight.train.game import Game, play
from featherweight.train.loop import Schedule, shuffled
from featherweight.train.next_token import mean_next_token_loss
from featherweight.train.participation import Rules
from featherweight.train.players import Dynamics, PlayerLayer


@technique
class Equilibrium(PartPruner):
    """Channels and groups play for their place in the network; those whose participation does not pay are removed."""

    paper: ClassVar[Paper] = Paper("2512.22106", "Pruning as a Game: Equilibrium-Driven Sparsification")
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    game: Literal["utility", "potential"] = Field(
        "potential", description="benefit: 'utility' <dL/dtheta, theta> as in the paper, 'potential' dL/ds"
    )
    benefit: Literal["descent", "paper"] = Field(
        "descent", description="'descent' rewards lowering the loss, 'paper' raising it, as printed"
    )
    price: float | None = Field(
        None,
        ge=0,
        description="gamma, in units of a layer's mean benefit; none = in each layer the price that clears its market",
    )
    quadratic: float = Field(0.0, ge=0, description="beta, price of |theta|^2 s^2")
    competition: float = Field(0.0, ge=0, description="eta, price of inner products with others; unused in the paper")
    cost: Literal["paper", "normalised", "frozen"] = Field(
        "normalised", description="|theta|^2 in costs: as it is, over its layer's mean, or that at the start"
    )
    floor: float = Field(0.05, ge=0, le=1, description="share of a layer's live players that is never driven out")
    threshold: float = Field(0.01, gt=0, lt=1, description="epsilon: players with a smaller share have left")
    rate: float = Field(0.05, gt=0, description="step of the shares; the paper's 0.001 is for thousands of steps")
    smoothing: float = Field(0.9, ge=0, lt=1, description="weight of the past in the slopes; 0 as in the paper")
    steps: int = Field(200, ge=1, description="updates")
    rows: int = Field(2, ge=1, description="rows of calibration tokens an update")
    weights: Literal["frozen", "trained"] = Field(
        "frozen", description="'trained': the players' weights are trained meanwhile, as in the paper"
    )
    learning_rate: float = Field(1e-4, gt=0, description="of trained weights, AdamW")
    fold: bool = Field(
        False, description="multiply what stays by its share, as the paper does; else it comes back with share 1"
    )
    choose: Literal["game", "magnitude", "random"] = Field(
        "game", description="'magnitude' and 'random' play no game and drop as many: the controls"
    )

    def apply(self, model: Model, run: Run) -> Model:
        return self.outcome(model, run).model

    def outcome(self, model: Model, run: Run) -> Outcome:
        """The pruned model, and how the game ended."""
        staying = self.staying(model, run)
        if not staying:
            return Outcome(model)
        run.tokens(self.name)
        table = _Table(self, model, run, staying)
        # Any choice of these sizes, so that what cannot be sliced is refused before the long part.
        table.sliced(model, {name: range(table.stay[name]) for name in table.stay})
        return table.play() if self.choose == "game" else table.control()


@dataclass(frozen=True)
class Outcome:
    """How a game ended.

    Attributes:
        model: without those who left.
        kept: who stays, by the weight name of the linear that reads them.
        shares: s of all players at the end, likewise.
        residual: largest and mean |s - best response|, over all players and all calibration tokens.
        by_rank: players who were neither clearly in nor clearly out, so that rank decided.
        losses: of every step.
    """

    model: Model
    kept: Mapping[str, Sequence[int]] | None = None
    shares: Mapping[str, torch.Tensor] | None = None
    residual: tuple[float, float] = (0.0, 0.0)
    by_rank: int = 0
    losses: Sequence[float] = ()


class _Table:
    """Where the game of one model is played: who plays, how many stay, what becomes of the tensors."""

    def __init__(self, settings: Equilibrium, model: Model, run: Run, staying: Mapping[Part, int]) -> None:
        self.settings, self.model, self.run = settings, model, run
        blocks = range(model.architecture.blocks)
        self.seats = {
            model.architecture.linear(block, part.reader): (block, part) for part in staying for block in blocks
        }
        self.stay = {name: staying[part] for name, (_, part) in self.seats.items()}

    def play(self) -> Outcome:
        module = self.model.module().to(self.run.device)
        weights = self._trainable(module) if self.settings.weights == "trained" else {}
        game = self._game(module)
        rows = self.run.tokens(self.settings.name).ids
        batch_of = shuffled(len(rows), self.settings.rows, self.run.generator("equilibrium"))
        schedule = Schedule(self.settings.steps, self.settings.learning_rate)
        batches = rows.split(self.settings.rows)
        with game.gated():
            losses = play(
                game, lambda step: _loss(module, rows[batch_of(step)]), schedule, list(weights.values()),
                stop_at=self._target() if self.settings.price is not None else None, progress=self.run.progress,
            )  # fmt: skip
            residuals = game.measure(lambda index: _loss(module, batches[index]), len(batches))
        return self._ended(game, weights, residuals, losses)

    def _ended(
        self, game: Game, weights: Mapping[str, Any], residuals: torch.Tensor, losses: Sequence[float]
    ) -> Outcome:
        shares = {name: each.detach().cpu() for name, each in game.shares.items()}
        kept = {name: _first(score, self.stay[name]) for name, score in game.ranked().items()}
        by_rank = 0
        for name, gone in game.gone().items():
            stays = torch.zeros(len(gone), dtype=torch.bool)
            stays[kept[name]] = True
            by_rank += int((stays == gone.cpu()).sum())
        residual = (float(residuals.max()), float(residuals.mean()))
        self.run.progress.say(
            f"best-response residual: largest {residual[0]:.3f}, mean {residual[1]:.3f}; rank decided on {by_rank} of"
            f" {len(residuals)} players"
        )
        changed = {name: each.detach().cpu() for name, each in weights.items()}
        if self.settings.fold:
            for name, (_, part) in self.seats.items():
                values = changed[name] if name in changed else self.model.tensor(name)
                changed[name] = values * shares[name].repeat_interleave(part.width)
        return Outcome(self.sliced(self.model, kept, changed), kept, shares, residual, by_rank, losses)

    def control(self) -> Outcome:
        """Who stays without a game: the largest, or whom the seed draws."""
        kept = {}
        for name, (block, part) in self.seats.items():
            if self.settings.choose == "random":
                scores = self.run.uniform(name, (part.count,))
            else:
                scores = self._owned(block, part, self.model.tensor).square().sum(1)
            kept[name] = _first(scores, self.stay[name])
        return Outcome(self.sliced(self.model, kept), kept)

    def sliced(
        self, model: Model, kept: Mapping[str, Sequence[int]], changed: Mapping[str, torch.Tensor] | None = None
    ) -> Model:
        """The model without those who left, with changed weights rounded once, as they were stored."""
        plan: dict[str, dict[int, Sequence[int]]] = {}
        for name, indices in kept.items():
            block, part = self.seats[name]
            plan.setdefault(part.axis, {})[block] = indices
        cut = slice_model(model.with_changes(changed or {}), Keep(ffn=plan.get("ffn"), groups=plan.get("query")))
        result = Rewrite(cut, self.run)
        for name in changed or {}:
            result[name] = like(model.stored(name), cut.tensor(name))
        return result.finish()

    def _game(self, module: Any) -> Game:
        chosen = self.settings
        rules = Rules(chosen.game, chosen.benefit, 1.0, chosen.quadratic, chosen.price or 0.0, chosen.competition)
        # Weights that stay as they are need not be looked at again and again.
        still = chosen.cost == "normalised" and chosen.weights == "frozen"
        dynamics = Dynamics(
            rate=chosen.rate,
            cost="frozen" if still else chosen.cost,
            floor=chosen.floor,
            threshold=chosen.threshold,
            smoothing=chosen.smoothing,
            relative=True,
            spread=0.01 if chosen.competition else 0.0,
        )
        layers = [
            PlayerLayer(
                name, module.get_submodule(name.removesuffix(".weight")), part.count, part.width,
                functools.partial(self._owned, block, part, module.get_parameter),
            )
            for name, (block, part) in self.seats.items()
        ]  # fmt: skip
        return Game(
            layers,
            rules,
            dynamics,
            self.stay if chosen.price is None else None,
            self.run.generator("equilibrium/start"),
        )

    def _owned(self, block: int, part: Part, weight: Any) -> torch.Tensor:
        architecture: Architecture = self.model.architecture
        return part_weights(architecture, part, lambda module: weight(architecture.linear(block, module)))

    def _trainable(self, module: Any) -> dict[str, torch.Tensor]:
        """The players' linears with weights of their own: those of the module may be the given model's."""
        found = {}
        for block, part in self.seats.values():
            for linear in part_linears(self.model.architecture, part):
                name = self.model.architecture.linear(block, linear)
                holder = module.get_submodule(name.removesuffix(".weight"))
                holder.weight = torch.nn.Parameter(holder.weight.detach().clone())
                found[name] = holder.weight
        return found

    def _target(self) -> float:
        total = sum(part.count for _, part in self.seats.values())
        return 1 - sum(self.stay.values()) / total


def _first(scores: torch.Tensor, count: int) -> list[int]:
    """Ascending indices of the highest scores."""
    return sorted(scores.topk(count).indices.tolist())


def _loss(module: Any, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token NLL of rows of tokens."""
    ids = ids.to(next(module.parameters()).device)
    return mean_next_token_loss(module(input_ids=ids, use_cache=False).logits, ids)
