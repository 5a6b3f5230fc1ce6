"""Plain floating point, stored tensor by tensor: F32, F16, BF16. Either runtime reads them."""

from __future__ import annotations

from featherweight.core.errors import FormatError
from featherweight.core.formats.base import Format, Grid, Packed
from featherweight.core.lazy import torch

_BITS = {"F32": 32, "F16": 16, "BF16": 16}


class Float(Format):
    """A floating-point format; `fit` is the cast that the exported file will hold."""

    runtime = "any"
    group = 1

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def dtype(self) -> torch.dtype:
        return {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[self.name]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        return True

    def row_bits(self, columns: int) -> float:
        return columns * _BITS[self.name]

    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed:
        return Packed(self.name, (weight.shape[0], weight.shape[1]), {"values": weight.to(self.dtype)})

    def grid(self, packed: Packed) -> Grid:
        raise FormatError(self.name, "floating point has no integer codes", "ask for a quantized format")

    def codes(self, packed: Packed) -> torch.Tensor:
        raise FormatError(self.name, "floating point has no integer codes", "ask for a quantized format")

    def recode(self, packed: Packed, codes: torch.Tensor) -> Packed:
        raise FormatError(self.name, "floating point has no integer codes", "ask for a quantized format")

    def dequantize(self, packed: Packed) -> torch.Tensor:
        return packed.parts["values"].float()

    def take_rows(self, packed: Packed, rows: torch.Tensor) -> Packed:
        values = packed.parts["values"][rows]
        return Packed(self.name, (values.shape[0], values.shape[1]), {"values": values})

    def take_groups(self, packed: Packed, groups: torch.Tensor) -> Packed:
        values = packed.parts["values"][:, groups]
        return Packed(self.name, (values.shape[0], values.shape[1]), {"values": values})
