"""What a structural pruner can drop of a block: FFN channels and key/value groups, and the base of those that do.

A part is some neighbouring input columns of the linear that reads it, with everything that produces them. Every block
keeps equally many, because the stock classes have one size for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field, field_validator

from featherweight.core.architecture import Architecture, Reads
from featherweight.core.errors import RecipeError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.slicing import allowed_groups
from featherweight.core.technique import Kind, Technique


@dataclass(frozen=True)
class Part:
    """What is dropped as one: `width` neighbouring input columns of the linear of `read`, `count` times.

    Attributes:
        read: the linear that reads it.
        axis: "ffn" for FFN channels, "query" for the heads of key/value groups.
        width: columns a part.
        count: parts a block.
    """

    read: Reads
    axis: str
    width: int
    count: int

    @property
    def reader(self) -> str:
        """The reading linear's name in its block."""
        return self.read.linears[0]


def parts(architecture: Architecture) -> list[Part]:
    """The readers of FFN channels and of attention outputs."""
    widths = {"ffn": 1, "query": architecture.heads_a_group * architecture.head_dim}
    found = []
    for read in architecture.reads:
        axis = architecture.linear_axes[read.linears[0]][1]
        if axis in widths:
            found.append(Part(read, axis, widths[axis], architecture.size(axis) // widths[axis]))
    return found


def part_linears(architecture: Architecture, part: Part) -> list[str]:
    """The linears of a block that hold weights of its parts."""
    wanted = {part.axis, "kv"} if part.axis == "query" else {part.axis}
    return [
        module
        for module, axes in architecture.linear_axes.items()
        if wanted & {each for axis in axes for each in axis.split("+")}
    ]


def part_weights(architecture: Architecture, part: Part, weight: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """Everything that goes when a part goes: rows that produce it and columns that read it, [count, weights].

    Args:
        architecture: says which rows and columns these are.
        part: what is dropped as one.
        weight: gives the weight of a linear of the block.
    """
    wanted = {part.axis, "kv"} if part.axis == "query" else {part.axis}
    pieces = []
    for module in part_linears(architecture, part):
        values, (rows, columns) = weight(module), architecture.linear_axes[module]
        if columns == part.axis:
            pieces.append(values.T.reshape(part.count, -1))
        first = 0
        for axis in rows.split("+"):
            size = architecture.size(axis)
            if axis in wanted:
                pieces.append(values[first : first + size].reshape(part.count, -1))
            first += size
    return torch.cat(pieces, dim=1)


class PartPruner(Technique):
    """Base of the techniques that leave every block the same smaller number of channels and groups."""

    kind: ClassVar[Kind] = Kind.PRUNE

    ffn: float = Field(0.75, gt=0, le=1, description="share of the FFN channels that stays; 1 keeps all")
    groups: float | int = Field(
        1.0, gt=0, description="share of the key/value groups that stays (1.0 keeps all), or a whole number of groups"
    )
    multiple: int = Field(
        32, ge=1, description="FFN channels are rounded to a multiple of it: 32 fits GGUF blocks, 256 keeps K-quants"
    )

    @field_validator("groups")
    @classmethod
    def _share_or_count(cls, value: float) -> float:
        if isinstance(value, float) and value > 1:
            raise ValueError("must be a share up to 1.0, or a whole number of groups such as 2")
        return value

    def staying(self, model: Model, run: Run) -> dict[Part, int]:
        """How many parts of a block stay, for those of which some go.

        Raises:
            RecipeError: the architecture cannot keep so many groups.
        """
        architecture = model.architecture
        counts = {
            "ffn": channel_count(architecture, self.ffn, self.multiple),
            "query": group_count(model, self.groups, f"{self.name}.groups", run.progress.say),
        }
        return {part: counts[part.axis] for part in parts(architecture) if counts[part.axis] < part.count}

    @classmethod
    def neutral(cls) -> Self:
        return cls(ffn=1.0, groups=1.0)


def channel_count(architecture: Architecture, share: float, multiple: int) -> int:
    """How many FFN channels stay: the share of them, rounded to a multiple; a share of 1 keeps all."""
    total = architecture.size("ffn")
    if share == 1:
        return total
    return min(max(round(total * share / multiple), 1) * multiple, total)


def group_count(model: Model, wanted: float | int, field: str, say: Callable[[str], None]) -> int:
    """How many key/value groups stay.

    Args:
        model: stock classes allow it only some counts.
        wanted: a whole number of groups, or a share, which is rounded up to what is allowed.
        field: the user's name for `wanted`.
        say: is told when a share had to be rounded up.

    Raises:
        RecipeError: a whole number that is not allowed.
    """
    total = model.architecture.kv_heads
    if wanted == (1.0 if isinstance(wanted, float) else total):
        return total
    allowed = allowed_groups(model)
    if isinstance(wanted, int):
        if wanted not in allowed:
            raise RecipeError(
                f"{field} = {wanted}", f"of {total} groups this architecture can keep {allowed}", "use one of these"
            )
        return wanted
    asked = max(round(total * wanted), 1)
    count = min(each for each in allowed if each >= asked)
    if count != asked:
        say(f"keeps {count} groups instead of {asked}: this architecture can keep {allowed}")
    return count
