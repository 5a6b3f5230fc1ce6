"""What a number format is: how many bytes a tensor takes, and how its values are rounded, recoded and read back.

A quantizer works on a `Grid` (the values that each weight may take) and writes `codes` back into a `Packed` tensor.
`Packed.dequantize()` is the only truth about a packed tensor's values: export writes exactly those bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

from featherweight.core.errors import FormatError
from featherweight.core.lazy import torch


@dataclass(frozen=True)
class Grid:
    """The values each weight of a [rows, columns] matrix may take: `scale * levels[code] + minimum`.

    Attributes:
        scale: [rows, groups] float32.
        minimum: [rows, groups] float32.
        group: columns that share one scale.
        low, high: smallest and largest code; codes are integers in [low, high].
        levels: [number of codes] float32 for a non-uniform code book; None when level = code.
    """

    scale: torch.Tensor
    minimum: torch.Tensor
    group: int
    low: int
    high: int
    levels: torch.Tensor | None = None

    def nearest(self, weight: torch.Tensor) -> torch.Tensor:
        """Codes [rows, columns] (int16) of the grid values nearest to `weight` [rows, columns]."""
        rows, columns = weight.shape
        inverse = torch.where(self.scale == 0, torch.zeros_like(self.scale), 1 / self.scale)
        blocks = weight.reshape(rows, -1, self.group)
        target = torch.sub(blocks, self.minimum[..., None]).mul_(inverse[..., None]).reshape(rows, columns)
        if self.levels is None:
            return target.round_().clamp_(self.low, self.high).to(torch.int16)
        middle = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.bucketize(target.contiguous(), middle).to(torch.int16)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """The grid values of `codes` [rows, columns], float32; a runtime may round them once more."""
        rows, columns = codes.shape
        levels = codes.float() if self.levels is None else self.levels[codes.long()]
        blocks = levels.reshape(rows, -1, self.group)
        return (blocks * self.scale[..., None] + self.minimum[..., None]).reshape(rows, columns)

    def to(self, device: str | torch.device) -> Grid:
        """The same grid on a device."""
        levels = None if self.levels is None else self.levels.to(device)
        return replace(self, scale=self.scale.to(device), minimum=self.minimum.to(device), levels=levels)

    @property
    def spacing(self) -> torch.Tensor:
        """The least distance of two neighbouring values of each group, float32 [rows, groups]."""
        gap = 1.0 if self.levels is None else float((self.levels[1:] - self.levels[:-1]).min())
        return self.scale.abs() * gap


@dataclass(frozen=True)
class Packed:
    """A weight matrix rounded onto a format: the bytes that an exported file will hold.

    Attributes:
        format: name of the format, e.g. "Q4_0" or "int4-g64".
        shape: [rows, columns] of the matrix.
        parts: tensors by part name; for GGUF blocks {"blocks": uint8 [rows, bytes a row]}.
    """

    format: str
    shape: tuple[int, int]
    parts: Mapping[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts.values())

    def dequantize(self) -> torch.Tensor:
        """The values, float32 [rows, columns]."""
        from featherweight.core.formats import get

        return get(self.format).dequantize(self)


class Format(ABC):
    """One number format of one runtime.

    Attributes:
        name: as the field writes it ("Q4_0", "BF16", "int4-g128").
        runtime: "gguf" or "compressed-tensors"; the exporter that can write it.
        group: columns that share a scale; the row length must be a multiple of it.
    """

    name: str
    runtime: str
    group: int

    @abstractmethod
    def row_bits(self, columns: int) -> float:
        """Stored bits of one row of `columns` weights, scales included."""

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Exact stored bytes of a tensor of this shape."""
        rows = 1
        for size in shape[:-1]:
            rows *= size
        return int(rows * self.row_bits(shape[-1])) // 8

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be stored in this format."""
        return len(shape) == 2 and shape[1] % self.group == 0

    def require(self, shape: tuple[int, ...], name: str) -> None:
        if not self.accepts(shape):
            raise FormatError(
                f"{self.name} for {name} {list(shape)}",
                f"the row length must be a multiple of {self.group}",
                "choose a format with smaller blocks for this tensor",
            )

    @abstractmethod
    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed:
        """Round to nearest on the best scales found for `weight`.

        Args:
            weight: float32 [rows, columns].
            importance: float32 [columns], the weight of each column's squared error; None = all equal.
        """

    @abstractmethod
    def grid(self, packed: Packed) -> Grid:
        """The grid on which `packed` lies."""

    @abstractmethod
    def codes(self, packed: Packed) -> torch.Tensor:
        """The codes, int16 [rows, columns]."""

    @abstractmethod
    def recode(self, packed: Packed, codes: torch.Tensor) -> Packed:
        """`packed` with the same scales and other codes, int16 [rows, columns]."""

    @abstractmethod
    def dequantize(self, packed: Packed) -> torch.Tensor:
        """The values, float32 [rows, columns], as the runtime computes them."""

    @abstractmethod
    def take_rows(self, packed: Packed, rows: torch.Tensor) -> Packed:
        """The rows with these indices, int64 [kept]: exactly the values that they had."""

    @abstractmethod
    def take_groups(self, packed: Packed, groups: torch.Tensor) -> Packed:
        """The groups of `group` columns with these indices, int64 [kept]: exactly the values that they had."""

    def take_columns(self, packed: Packed, columns: torch.Tensor) -> Packed:
        """The columns with these indices, int64 [kept].

        Whole groups keep their values exactly. Any other choice mixes weights of different scales in one group, so
        the kept values are rounded to nearest onto new scales.
        """
        groups = whole_groups(columns, self.group)
        if groups is None:
            return self.fit(self.dequantize(packed)[:, columns])
        return self.take_groups(packed, groups)


def whole_groups(columns: torch.Tensor, group: int) -> torch.Tensor | None:
    """The groups that these columns make up, int64 [groups]; None when they are not whole groups."""
    if columns.numel() % group:
        return None
    blocks = columns.reshape(-1, group)
    starts = blocks[:, 0]
    whole = bool((starts % group == 0).all()) and bool((blocks == starts[:, None] + torch.arange(group)).all())
    return starts // group if whole else None
