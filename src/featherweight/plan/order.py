"""Order of steps: each step's own damage, what the intensity rule says of their order, and what measuring says.

Metric M = -log perplexity on the probe rows (higher is better). Intensity of a step is its loss of M alone; the gap is
G = M(f1 alone) - M(f2 alone); the advantage A(f1 -> f2) = M(f1 first) - M(f2 first); C* is the step's intensity on the
scale of rounding alone (`plan.curve`). The rule "weaker first" (arXiv 2603.18426) proposes an order for any number of
steps, of any kind; it ranks and does not foretell the sign of A for one pair, so the measurement decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.errors import RecipeError
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Kind, Technique
from featherweight.plan.curve import Curve, Measure

VERIFIED_STEPS = 3  # up to so many steps, orders are measured unless told otherwise
Order = tuple[int, ...]
"""Positions in the recipe as given, in the order in which they are applied."""


@dataclass(frozen=True)
class Stage:
    """What is moved as one: a step, or a plan of formats with all up to the quantizer that carries it out."""

    steps: tuple[Technique, ...]

    @property
    def name(self) -> str:
        return " + ".join(step.name for step in self.steps)

    def must_precede(self, other: Stage) -> bool:
        """Whether one of its steps must not come after one of the other's."""
        return any(step.name in mine.not_after for mine in self.steps for step in other.steps)


@dataclass(frozen=True)
class OrderPair:
    """Two adjacent stages in both orders; losses in nats a token above the parent.

    Attributes:
        first, second: names of the stages in the order that the rule proposes.
        loss_first, loss_second: each stage alone (its intensity).
        loss_proposed, loss_reversed: both stages, in the proposed and in the reversed order.
        ratio_first, ratio_second: compression-equivalent ratios C*.
    """

    first: str
    second: str
    loss_first: float
    loss_second: float
    loss_proposed: float
    loss_reversed: float
    ratio_first: float
    ratio_second: float

    @property
    def gap(self) -> float:
        """G = M(first alone) - M(second alone); positive when the second step is the stronger one."""
        return self.loss_second - self.loss_first

    @property
    def advantage(self) -> float:
        """A(first -> second); positive when the proposed order is the better one."""
        return self.loss_reversed - self.loss_proposed

    @property
    def better(self) -> str:
        """Which order lost less, "proposed" or "reversed"."""
        return "proposed" if self.advantage >= 0 else "reversed"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.__dict__, "gap": self.gap, "advantage": self.advantage, "better": self.better}


@dataclass(frozen=True)
class Ordering:
    """Everything that is known about the order of some steps; losses in nats a token above the parent.

    Attributes:
        stages: in the order given.
        losses: of each stage alone.
        ratios: C* of each stage.
        proposed: weakest first.
        pairs: neighbours in the proposed order, in both orders; empty where nothing was verified.
        measured: loss of each whole order that was run.
        monotone: whether the curve that C* is read off was; if not, C* is doubtful.
    """

    stages: tuple[Stage, ...]
    losses: tuple[float, ...]
    ratios: tuple[float, ...]
    proposed: Order
    pairs: tuple[OrderPair, ...]
    measured: dict[Order, float]
    monotone: bool = True

    @property
    def given(self) -> Order:
        return tuple(range(len(self.stages)))

    @property
    def best(self) -> Order:
        """The order of least measured loss, the given one if none is better; the proposed one if none was measured."""
        if not self.measured:
            return self.proposed
        least = min(self.measured.values())
        return next(each for each in (self.given, self.proposed, *self.measured) if self.measured.get(each) == least)

    @property
    def warnings(self) -> list[str]:
        """What is known to go wrong in the given or the best order."""
        return list(dict.fromkeys(each for order in (self.given, self.best) for each in self._warnings(order)))

    def _warnings(self, order: Order) -> Iterator[str]:
        steps = self.recipe(order).steps
        for early, late in itertools.combinations(steps, 2):
            if early.rotates and late.kind is Kind.PRUNE and not late.rotation_aware:
                yield (
                    f"{early.name} rotates and comes before {late.name}, which does not know of rotations: their "
                    "damage multiplies; put the pruner first"
                )

    def recipe(self, order: Order) -> Recipe:
        """The steps in an order."""
        return Recipe(tuple(step for index in order for step in self.stages[index].steps))

    def named(self, order: Order) -> str:
        """An order for people."""
        return " → ".join(self.stages[index].name for index in order)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for receipts and reports."""
        return {
            "steps": [
                {"name": stage.name, "loss": loss, "ratio": ratio}
                for stage, loss, ratio in zip(self.stages, self.losses, self.ratios, strict=True)
            ],
            "proposed": list(self.proposed),
            "best": list(self.best),
            "pairs": [pair.to_dict() for pair in self.pairs],
            "measured": [{"order": list(order), "loss": loss} for order, loss in self.measured.items()],
            "monotone_curve": self.monotone,
            "warnings": self.warnings,
        }


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The steps that move as one; a quantizer that follows a plan stays behind the step that plans."""
    stages: list[Stage] = []
    for step in recipe:
        first = len(stages)
        if step.follows_plan:
            planners = [index for index, stage in enumerate(stages) if any(each.plans for each in stage.steps)]
            first = planners[-1] if planners else first
        stages[first:] = [Stage((*(each for stage in stages[first:] for each in stage.steps), step))]
    return tuple(stages)


def propose(stages: Sequence[Stage], strengths: Sequence[Any]) -> Order:
    """Weakest first; equals keep their order, and so does what must not come after something else."""
    left, order = list(range(len(stages))), []
    while left:
        free = [
            index
            for index in left
            if not any(stages[other].must_precede(stages[index]) for other in left if other != index)
        ]
        chosen = min(free or left[:1], key=lambda index: (strengths[index], index))
        left.remove(chosen)
        order.append(chosen)
    return tuple(order)


def order_steps(
    recipe: Recipe, parent_nll: float, measure: Measure, curve: Curve, verify: bool | None = None
) -> Ordering:
    """Measures the steps of a recipe alone, ranks them, and compares orders.

    Args:
        recipe: the steps in the order in which somebody thought of them.
        parent_nll: of the untouched model on the same tokens.
        measure: runs a recipe and gives its negative log-likelihood.
        curve: loss of rounding alone by bits a weight.
        verify: whether orders are measured; None = up to three stages.
    """
    stages = stages_of(recipe)
    loss = _Losses(stages, parent_nll, measure)
    alone = tuple(loss((index,)) for index in range(len(stages)))
    ratios = tuple(curve.ratio(each) for each in alone)
    proposed = propose(stages, list(zip(ratios, alone, strict=True)))
    pairs: tuple[OrderPair, ...] = ()
    measured: dict[Order, float] = {}
    if verify if verify is not None else len(stages) <= VERIFIED_STEPS:
        pairs = tuple(
            OrderPair(
                stages[one].name, stages[other].name, alone[one], alone[other], loss((one, other)), loss((other, one)),
                ratios[one], ratios[other],
            )
            for one, other in itertools.pairwise(proposed)
            if loss.allowed((one, other)) and loss.allowed((other, one))
        )  # fmt: skip
        measured = {order: loss(order) for order in _worth_trying(proposed) if loss.allowed(order)}
    return Ordering(stages, alone, ratios, proposed, pairs, measured, curve.monotone)


def _worth_trying(proposed: Order) -> list[Order]:
    """The given order, the proposed one, its reverse, and the proposed one with two neighbours swapped."""
    found = [tuple(sorted(proposed)), proposed, proposed[::-1]]
    for at in range(len(proposed) - 1):
        found.append((*proposed[:at], proposed[at + 1], proposed[at], *proposed[at + 2 :]))
    return list(dict.fromkeys(found))


class _Losses:
    """Losses above the parent of stages in some order, each recipe measured once."""

    def __init__(self, stages: Sequence[Stage], parent_nll: float, measure: Measure) -> None:
        self.stages, self.parent_nll, self.measure = stages, parent_nll, measure
        self._known: dict[str, float] = {}

    def _recipe(self, order: Order) -> Recipe:
        return Recipe(tuple(step for index in order for step in self.stages[index].steps))

    def __call__(self, order: Order) -> float:
        recipe = self._recipe(order)
        if recipe.digest not in self._known:
            self._known[recipe.digest] = self.measure(recipe) - self.parent_nll
        return self._known[recipe.digest]

    def allowed(self, order: Order) -> bool:
        """Whether no step rules it out."""
        try:
            self._recipe(order).check_order()
        except RecipeError:
            return False
        return True
