"""What a grid crosses, and how its cells are trained and judged: the settings of the verb, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.core.errors import RecipeError
from featherweight.core.fields import assignment
from featherweight.plan.spending import Prices
from featherweight.train.head import Fitting
from featherweight.train.optimizers import spread
from featherweight.train.probe import WAYS, Way
from featherweight.train.sequence_cells import Design


@dataclass(frozen=True)
class GridSettings:
    """What is crossed, and how each cell is trained and judged; empty or None = what is usual for the source.

    Attributes:
        backbones, objectives: by name.
        rows: amounts of data, as numbers of rows or shares such as 25%.
        seeds: of every cell.
        steps: updates of a cell.
        flops: floating-point operations of a cell, instead of updates.
        batch: rows an update.
        learning_rate: in the middle of those that are tried.
        rates: how many of them.
        factor: from one to the next.
        head: "linear", "mlp" or "finetune"; a language model keeps its own.
        labels: rows that the head learns from; None = 300, or 2,000 of text.
        fields: of objectives, by their names.
        design: of networks that are trained from nothing; None = one with at most 128 positions.
        memory: share of a language model's parameters that its skeletons keep.
        length: tokens of a row.
        judged: rows of text that judge.
        prices: of a run and of a row.
        seed: of the split of the data.
        device: "cpu" or "cuda".
    """

    backbones: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: int = 2
    steps: int | None = None
    flops: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    rates: int = 1
    factor: float = 10**0.5
    head: Way = "linear"
    labels: int | None = None
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    design: Design | None = None
    memory: str | float = "80%"
    length: int = 64
    judged: int = 24
    prices: Prices = field(default_factory=Prices)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        least = {"seeds": self.seeds, "steps": self.steps, "batch": self.batch, "rates": self.rates,
                 "labels": self.labels, "judged": self.judged, "length": self.length}  # fmt: skip
        for name, value in least.items():
            if value is not None and value < 1:
                raise RecipeError(f"--{name} {value}", "is too few", "give at least 1")
        if self.steps is not None and self.flops is not None:
            raise RecipeError("--steps and --flops", "are two budgets for a cell", "give one of them")
        if self.head not in WAYS:
            raise RecipeError(f"--head {self.head}", "is no head", f"use one of {', '.join(WAYS)}")
        if self.factor <= 1 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise RecipeError(
                f"--learning-rate {self.learning_rate} --factor {self.factor:g}", "make no grid of rates",
                "give a rate above 0 and a factor above 1",
            )  # fmt: skip

    def tried(self, usual: float) -> tuple[float, ...]:
        """The learning rates, around one."""
        return tuple(spread(self.learning_rate or usual, self.rates, self.factor))

    def fitting(self, usual: Fitting) -> Fitting:
        """How a cell is trained."""
        return Fitting(self.steps or usual.steps, usual.learning_rate, usual.weight_decay, self.batch or usual.batch)


def read_fields(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Fields of objectives from "cpc.offset=8" and the like.

    Raises:
        RecipeError: not such an assignment.
    """
    fields: dict[str, dict[str, Any]] = {}
    for each in assignments:
        place, value = assignment(each, "cpc.offset=8")
        objective, _, name = place.partition(".")
        if not (objective and name):
            raise RecipeError(f"--set {each}", "sets no field of an objective", "write for example cpc.offset=8")
        fields.setdefault(objective, {})[name] = value
    return fields
