"""What pruning of single weights shares: which of them become zero, and how a matrix with zeros is stored.

Zeros of single weights save no bytes in any GGUF or compressed-tensors file that present runtimes run fast: storage
stays dense. Such pruning is an experiment on quality, or a preparation for kernels that skip zeros.

A matrix that is already rounded stays on its format. Its values are read, the weights to drop are found, and those get
the grid value nearest to zero: zero itself on Q4_0, Q5_0, Q8_0, Q3_K, Q6_K and all int formats (whose zero point is a
grid value); on Q4_1, Q5_1, Q2_K, Q4_K, Q5_K and the IQ4 types zero is in general not on the grid.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from featherweight.core.checkpoint import Stored
from featherweight.core.errors import FormatError
from featherweight.core.formats import Packed, get
from featherweight.core.lazy import torch
from featherweight.core.technique import Kind, Technique

UNSTRUCTURED = "unstructured"
_PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")


class Sparsifier(Technique):
    """Base of the techniques that set single weights of the blocks' linears to zero; embedding and head stay."""

    kind: ClassVar[Kind] = Kind.PRUNE

    pattern: str = Field(
        UNSTRUCTURED, description="'unstructured', or 'n:m' such as 2:4: at most n non-zeros in every m columns"
    )
    sparsity: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of zeros in every matrix; 1 - n/m with an n:m pattern",
        validate_default=True,
    )

    @field_validator("pattern")
    @classmethod
    def _readable(cls, value: str) -> str:
        if value != UNSTRUCTURED and (not _PATTERN.fullmatch(value) or nonzeros(value)[0] >= nonzeros(value)[1]):
            raise ValueError("must be 'unstructured' or n:m with n < m, such as 2:4")
        return value

    @field_validator("sparsity")
    @classmethod
    def _agrees(cls, value: float, info: ValidationInfo) -> float:
        pattern = info.data.get("pattern", UNSTRUCTURED)
        if pattern != UNSTRUCTURED and value != (share := 1 - nonzeros(pattern)[0] / nonzeros(pattern)[1]):
            raise ValueError(f"must be {share:g} with the pattern {pattern}")
        return value

    def require_fit(self, columns: int, name: str) -> None:
        """Refuses rows that an n:m pattern does not divide."""
        if self.pattern != UNSTRUCTURED and columns % nonzeros(self.pattern)[1]:
            raise FormatError(
                f"pattern {self.pattern} for {name}", f"its rows of {columns} are no multiple of m",
                "choose another m, or unstructured",
            )  # fmt: skip

    def dropped(self, scores: torch.Tensor, compare: Literal["row", "matrix"]) -> torch.Tensor:
        """Which weights become zero: the exact share of those with the lowest scores; of equal ones the first.

        Args:
            scores: [rows, columns].
            compare: within each row, or within the whole matrix; n:m compares within each m columns of a row.

        Returns:
            bool [rows, columns].
        """
        rows, columns = scores.shape
        if self.pattern != UNSTRUCTURED:
            kept, width = nonzeros(self.pattern)
            return lowest(scores.reshape(-1, width), width - kept).reshape(rows, columns)
        if compare == "row":
            return lowest(scores, round(self.sparsity * columns))
        return lowest(scores.reshape(1, -1), round(self.sparsity * (rows * columns))).reshape(rows, columns)


def nonzeros(pattern: str) -> tuple[int, int]:
    """n and m of an n:m pattern."""
    kept, width = pattern.split(":")
    return int(kept), int(width)


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Marks the `count` lowest entries of each row of [rows, columns]; of equal ones the first."""
    if count == 0:
        return torch.zeros(scores.shape, dtype=torch.bool)
    edge = scores.kthvalue(count, dim=1, keepdim=True).values
    below, equal = scores < edge, scores == edge
    return below | (equal & (equal.cumsum(1) <= count - below.sum(1, keepdim=True)))


def with_zeros(stored: Stored, dropped: torch.Tensor) -> Stored:
    """A stored matrix with some weights set to zero and all others as they are, bit for bit."""
    if not isinstance(stored, Packed):
        return stored.masked_fill(dropped, 0)
    number_format = get(stored.format)
    nearest_to_zero = number_format.grid(stored).nearest(torch.zeros(stored.shape))
    return number_format.recode(stored, torch.where(dropped, nearest_to_zero, number_format.codes(stored)))


def like(stored: Stored, values: torch.Tensor) -> Stored:
    """Changed values, float32 [rows, columns], in the dtype or on fresh scales of the format of `stored`."""
    return get(stored.format).fit(values) if isinstance(stored, Packed) else values.to(stored.dtype)
