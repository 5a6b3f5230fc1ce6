"""Two tensors stored as one matrix: a rounded one with a small change beside it, or with some weights kept at 16 bits.

"Q4_0+int4-g32" is the sum of a Q4_0 and an int4-g32 matrix. "Q4_0+0.2xBF16" is a Q4_0 matrix in which a fifth of the
weights, marked by one bit a weight, has BF16 values instead. Both save, load and compute like any format of this
library and count every byte that they need. No runtime reads them, so neither can be exported as it is; cast to BF16
(`rtn` with `format: BF16`), or rounded onto one format, they can.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping

from featherweight.core.errors import FormatError
from featherweight.core.formats.base import Format, Grid, Packed
from featherweight.core.formats.floats import Float
from featherweight.core.lazy import np, torch

OURS = "featherweight"
_BASE = "base."
_KEPT = re.compile(r"(\d(?:\.\d+)?(?:e-\d+)?)x(BF16|F16)")
Get = Callable[[str], Format]


class Composed(Format):
    """A matrix in a base format and something beside it."""

    runtime = OURS

    def __init__(self, name: str, base: Format) -> None:
        self.name, self.base = name, base
        self.group = base.group

    def base_of(self, packed: Packed) -> Packed:
        """The matrix without what lies beside it."""
        return Packed(self.base.name, packed.shape, _under(_BASE, packed.parts))

    def _refuse(self) -> FormatError:
        return FormatError(
            self.name, "is two tensors in one and has no single grid", "round it onto one format first, or merge it"
        )

    @abstractmethod
    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed: ...

    def grid(self, packed: Packed) -> Grid:
        raise self._refuse()

    def codes(self, packed: Packed) -> torch.Tensor:
        raise self._refuse()

    def recode(self, packed: Packed, codes: torch.Tensor) -> Packed:
        raise self._refuse()


class Summed(Composed):
    """Base plus delta, each in a format of its own."""

    def __init__(self, base: Format, delta: Format) -> None:
        super().__init__(f"{base.name}+{delta.name}", base)
        self.delta = delta
        self.group = math.lcm(base.group, delta.group)

    def row_bits(self, columns: int) -> float:
        return self.base.row_bits(columns) + self.delta.row_bits(columns)

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        return self.base.tensor_bytes(shape) + self.delta.tensor_bytes(shape)

    def join(self, base: Packed, delta: Packed) -> Packed:
        """The sum of two packed matrices of one shape."""
        parts = {**_over(_BASE, base.parts), **_over("delta.", delta.parts)}
        return Packed(self.name, base.shape, parts)

    def delta_of(self, packed: Packed) -> Packed:
        return Packed(self.delta.name, packed.shape, _under("delta.", packed.parts))

    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed:
        """The base rounded to nearest, and what is left of the weights rounded once more."""
        base = self.base.fit(weight, importance)
        return self.join(base, self.delta.fit(weight - base.dequantize(), importance))

    def dequantize(self, packed: Packed) -> torch.Tensor:
        return self.base_of(packed).dequantize() + self.delta_of(packed).dequantize()

    def take_rows(self, packed: Packed, rows: torch.Tensor) -> Packed:
        base = self.base.take_rows(self.base_of(packed), rows)
        return self.join(base, self.delta.take_rows(self.delta_of(packed), rows))

    def take_groups(self, packed: Packed, groups: torch.Tensor) -> Packed:
        columns = (groups[:, None] * self.group + torch.arange(self.group)).reshape(-1)
        base = self.base.take_columns(self.base_of(packed), columns)
        return self.join(base, self.delta.take_columns(self.delta_of(packed), columns))


class Kept(Composed):
    """Base, of which a share of the weights is kept at 16 bits: marked by a bit a weight, values in reading order."""

    def __init__(self, base: Format, share: float, values: str) -> None:
        super().__init__(f"{base.name}+{share:g}x{values}", base)
        self.share, self.values = float(f"{share:g}"), Float(values)  # what the name says

    def count(self, shape: tuple[int, ...]) -> int:
        """How many weights of a matrix are kept."""
        return round(self.share * math.prod(shape))

    def row_bits(self, columns: int) -> float:
        return self.base.row_bits(columns) + 8 * -(-columns // 8) + 16 * self.share * columns

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        marks = math.prod(shape[:-1]) * -(-shape[-1] // 8)
        return self.base.tensor_bytes(shape) + marks + 2 * self.count(shape)

    def join(self, base: Packed, weight: torch.Tensor, kept: torch.Tensor) -> Packed:
        """`base` with the values of `weight` [rows, columns] where `kept`, bool [rows, columns], of `count` ones."""
        if int(kept.sum()) != self.count(base.shape):
            raise FormatError(
                self.name, f"keeps {self.count(base.shape)} weights of {list(base.shape)}, not {int(kept.sum())}",
                "mark as many as the name says",
            )  # fmt: skip
        marks = torch.from_numpy(np.packbits(kept.numpy(), axis=1))
        parts = {**_over(_BASE, base.parts), "kept": marks, "values": weight[kept].to(self.values.dtype)}
        return Packed(self.name, base.shape, parts)

    def kept_of(self, packed: Packed) -> torch.Tensor:
        """Which weights are kept at 16 bits, bool [rows, columns]."""
        marks = np.unpackbits(packed.parts["kept"].numpy(), axis=1, count=packed.shape[1])
        return torch.from_numpy(marks).bool()

    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed:
        """The base rounded to nearest; the weights with the largest rounding errors are kept."""
        base = self.base.fit(weight, importance)
        error = (weight - base.dequantize()).abs().reshape(-1)
        kept = torch.zeros(error.shape, dtype=torch.bool)
        kept[error.topk(self.count(base.shape)).indices] = True
        return self.join(base, weight, kept.reshape(base.shape))

    def dequantize(self, packed: Packed) -> torch.Tensor:
        values = self.base_of(packed).dequantize()
        return values.masked_scatter(self.kept_of(packed), packed.parts["values"].float())

    def take_rows(self, packed: Packed, rows: torch.Tensor) -> Packed:
        raise self._uncuttable()

    def take_groups(self, packed: Packed, groups: torch.Tensor) -> Packed:
        raise self._uncuttable()

    def take_columns(self, packed: Packed, columns: torch.Tensor) -> Packed:
        raise self._uncuttable()

    def _uncuttable(self) -> FormatError:
        return FormatError(
            self.name, "keeps a share of each whole matrix, which a part of it would not have",
            "cut the model first, then keep its weights",
        )  # fmt: skip


def composed(name: str, get: Get) -> Format:
    """The format called "BASE+DELTA" or "BASE+SHARExBF16".

    Args:
        name: as `Format.name` writes it; of several "+", the last one counts.
        get: finds the formats that it is made of.
    """
    base, _, beside = name.rpartition("+")
    kept = _KEPT.fullmatch(beside)
    if kept is not None:
        return Kept(get(base), float(kept[1]), kept[2])
    return Summed(get(base), get(beside))


def require_single(kind: Format, name: str) -> None:
    """Refuses to export a matrix that is two tensors in one."""
    if kind.runtime == OURS:
        raise FormatError(
            f"{name} in {kind.name}", "is two tensors in one, which no runtime but this library reads",
            "round it onto one format first, or cast it with rtn (format: BF16)",
        )  # fmt: skip


def _over(prefix: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{part}": values for part, values in parts.items()}


def _under(prefix: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {part.removeprefix(prefix): values for part, values in parts.items() if part.startswith(prefix)}
