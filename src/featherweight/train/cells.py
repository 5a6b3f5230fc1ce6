"""A cell of a grid, what its training gives, and what a grid may be made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from featherweight.core.errors import RecipeError

UNTRAINED = "untrained"
"""The objective of a cell that is judged as it was made: what a backbone gives for nothing."""


@dataclass(frozen=True)
class Cell:
    """One training of a grid.

    Attributes:
        backbone, objective: by name.
        rows: of data that it may learn from.
        seed: of its weights, of which rows it gets, of their order.
    """

    backbone: str
    objective: str
    rows: int
    seed: int


@dataclass(frozen=True)
class Trial:
    """What a training gave.

    Attributes:
        scores: by task, on rows that nothing was trained or chosen on; higher is better.
        validation: mean over tasks on the rows that a learning rate is chosen on.
        parameters: of the backbone.
        flops: of the whole training.
        steps: updates.
        rows: by task, a number for every row that judges; their mean is the score. They tell how much of a difference
            is due to the choice of these rows.
        loss: at the first update, and the mean of the last tenth; None where nothing was trained.
        failed: why there is no score; empty where there is one.
    """

    scores: Mapping[str, float]
    validation: float
    parameters: int
    flops: int
    steps: int
    loss: tuple[float, float] | None = None
    failed: str = ""
    rows: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trial:
        """Reads what `to_dict` writes."""
        loss, rows = data["loss"], {task: tuple(each) for task, each in data["rows"].items()}
        return cls(**{**data, "loss": None if loss is None else (loss[0], loss[1]), "rows": rows})


def updates_within(flops: int | None, steps: int, each: int, called: str) -> int:
    """Updates of a cell.

    Args:
        flops: operations that it may take; None = the number of updates is given.
        steps: that number.
        each: operations of one update.
        called: the backbone and the objective, for the error.

    Raises:
        RecipeError: the operations do not suffice for one.
    """
    if flops is None:
        return steps
    if flops < each:
        raise RecipeError(
            f"{flops:.3g} operations a cell", f"are less than one update of {called}", f"give at least {each:.2g}"
        )
    return flops // each


def first_and_last(losses: Sequence[float]) -> tuple[float, float] | None:
    """The first loss, and the mean of the last tenth."""
    last = losses[-max(1, len(losses) // 10) :]
    return (losses[0], sum(last) / len(last)) if losses else None


class Domain(Protocol):
    """What a grid is trained on: it knows how to train and judge a cell."""

    @property
    def threads(self) -> int | None:
        """Of a training; None = as many as there are."""

    @property
    def tasks(self) -> Sequence[str]:
        """What is asked of every cell."""

    def facts(self) -> dict[str, Any]:
        """All that results depend on beside the cell and the rate, as plain JSON."""

    def train(self, cell: Cell, rate: float) -> Trial:
        """Trains and judges a cell.

        Raises:
            TrainingError: a loss is not a number.
        """
