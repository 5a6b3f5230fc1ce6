"""A stored matrix with some of its weights changed: re-rounded on the grid that it lies on, or the change kept beside.

Scales, minima and the codes of all other weights stay as they are, bit for bit. On a frozen grid a change of less than
half a step is lost; beside the matrix it has scales of its own and takes bytes of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from featherweight.core.checkpoint import Stored, values
from featherweight.core.errors import FormatError
from featherweight.core.formats import Packed, get
from featherweight.core.formats.composed import Summed
from featherweight.core.lazy import torch

# Zero must be a value of the delta's grid, else weights outside the mask would move.
HOLDS_ZERO = ("Q4_0", "Q5_0", "Q8_0")


class Patchable(ABC):
    """A stored matrix that takes a change.

    Attributes:
        stored: as it is.
        values: the same, float32 [rows, columns].
    """

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.values = values(stored)

    @abstractmethod
    def with_delta(self, delta: torch.Tensor, mask: torch.Tensor) -> Stored:
        """The matrix plus `delta` where `mask` is set.

        Args:
            delta: float32 [rows, columns].
            mask: bool [rows, columns].
        """


class Merged(Patchable):
    """The change goes into the matrix: nearest values on the frozen grid; a plain matrix takes its own dtype."""

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        if isinstance(stored, Packed):
            self._grid, self._codes = get(stored.format).grid(stored), get(stored.format).codes(stored)

    def with_delta(self, delta: torch.Tensor, mask: torch.Tensor) -> Stored:
        wanted = self.values + delta
        if not isinstance(self.stored, Packed):
            return torch.where(mask, wanted.to(self.stored.dtype), self.stored)
        codes = torch.where(mask, self._grid.nearest(wanted), self._codes)
        return get(self.stored.format).recode(self.stored, codes)


class Separate(Patchable):
    """The change is rounded onto a format of its own and stored beside the matrix, which stays as it is."""

    def __init__(self, stored: Stored, format: str) -> None:
        super().__init__(stored)
        kind = stored if isinstance(stored, Packed) else get(_plain(stored)).fit(stored)
        self._base, self._sum = kind, Summed(get(kind.format), get(format))

    def with_delta(self, delta: torch.Tensor, mask: torch.Tensor) -> Stored:
        return self._sum.join(self._base, self._sum.delta.fit((delta * mask).contiguous()))


def require_zero(format: str) -> str:
    """The name of a format whose grid holds zero, so that a masked delta changes nothing outside its mask.

    Raises:
        FormatError: its grid does not.
    """
    if get(format).runtime != "compressed-tensors" and format not in HOLDS_ZERO:
        raise FormatError(
            f"delta format {format}", "has no exact zero, so weights outside the mask would move",
            f"use an integer format such as int4-g32, or one of {', '.join(HOLDS_ZERO)}",
        )  # fmt: skip
    return format


def _plain(tensor: torch.Tensor) -> str:
    return {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[tensor.dtype]
