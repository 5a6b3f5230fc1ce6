"""The header of a GGUF file, read quickly: metadata fields with their types, and where each tensor lies.

gguf-py's own reader takes seconds on a vocabulary of 50,000 tokens, this one a tenth of a second. Versions 2 and 3,
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import gguf, np

_BOOL, _UNSIGNED, _STRING, _ARRAY = 7, 4, 8, 9
_FLOAT, _SIGNED = 6, 5
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One metadata field: its value, its GGUF value type and, for an array, that of its elements."""

    value: Any
    type: int
    element: int | None = None


def text_field(value: str) -> Field:
    return Field(value, _STRING)


def flag_field(value: bool) -> Field:
    return Field(value, _BOOL)


def count_field(value: int) -> Field:
    return Field(value, _UNSIGNED)


def texts_field(values: Sequence[str]) -> Field:
    return Field(values, _ARRAY, _STRING)


def integers_field(values: Sequence[int]) -> Field:
    return Field(values, _ARRAY, _SIGNED)


def floats_field(values: Sequence[float]) -> Field:
    return Field(values, _ARRAY, _FLOAT)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in a file.

    Attributes:
        type: "F32", "Q4_0", ...
        shape: as torch has it, the row length last.
        offset: first byte in the file.
        nbytes: stored bytes.
    """

    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file: its metadata and the places of its tensors."""

    path: Path
    fields: Mapping[str, Field]
    tensors: Mapping[str, TensorInfo]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata field."""
        return self.fields[key].value if key in self.fields else default

    def data(self, name: str) -> np.ndarray:
        """The bytes of a tensor, uint8, mapped from the file."""
        info = self.tensors[name]
        return np.memmap(self.path, np.uint8, "r", info.offset, (info.nbytes,))


def read_gguf(path: Path) -> GgufFile:
    """The header of a file.

    Raises:
        CheckpointError: it does not exist, is no GGUF file, or is cut off.
    """
    if not path.is_file():
        raise CheckpointError(str(path), "does not exist", "give a .gguf file")
    try:
        fields, tensors = _Cursor(np.memmap(path, np.uint8, "r")).header()
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, struct.error) as error:
        raise CheckpointError(str(path), f"is not a whole GGUF file ({error})", "download it again") from None
    size = path.stat().st_size
    end = max((info.offset + info.nbytes for info in tensors.values()), default=0)
    if end > size:
        raise CheckpointError(str(path), f"is truncated: {size} bytes of {end}", "download it again")
    return GgufFile(path, fields, tensors)


class _Cursor:
    """Walks through the header of a mapped file."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data.data
        self.at = 0

    def header(self) -> tuple[dict[str, Field], dict[str, TensorInfo]]:
        magic, version, tensors, fields = self.unpack("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("no little-endian GGUF of version 2 or 3")
        metadata = dict(self.field() for _ in range(fields))
        infos = [self.tensor() for _ in range(tensors)]
        alignment = metadata["general.alignment"].value if "general.alignment" in metadata else 32
        start = -(-self.at // alignment) * alignment
        return metadata, {
            name: TensorInfo(kind.name, shape, start + offset, _nbytes(kind, shape))
            for name, kind, shape, offset in infos
        }

    def unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self) -> str:
        (length,) = self.unpack("<Q")
        text = bytes(self.data[self.at : self.at + length])
        if len(text) != length:
            raise ValueError("the header is cut off")
        self.at += length
        return text.decode("utf-8")

    def field(self) -> tuple[str, Field]:
        key = self.string()
        (kind,) = self.unpack("<I")
        if kind != _ARRAY:
            return key, Field(self.value(kind), kind)
        element, count = self.unpack("<IQ")
        if element == _STRING:
            return key, Field([self.string() for _ in range(count)], kind, element)
        return key, Field(self.numbers(element, count), kind, element)

    def value(self, kind: int) -> Any:
        return self.string() if kind == _STRING else self.numbers(kind, 1)[0]

    def numbers(self, kind: int, count: int) -> list[Any]:
        dtype = np.dtype(_NUMBERS[kind])
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values.tolist()

    def tensor(self) -> tuple[str, Any, tuple[int, ...], int]:
        name = self.string()
        (dimensions,) = self.unpack("<I")
        shape = self.unpack(f"<{dimensions}Q")[::-1]
        kind, offset = self.unpack("<IQ")
        return name, gguf.GGMLQuantizationType(kind), shape, offset


def _nbytes(kind: Any, shape: tuple[int, ...]) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape, dtype=np.int64))
    return count // block * size
