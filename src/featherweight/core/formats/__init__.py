"""Every number format: exact bytes, rounding, packing. `get("Q4_0")`, `get("int4-g64-asym")`, `get("BF16")`."""

from __future__ import annotations

import functools

from featherweight.core.errors import FormatError, nearest
from featherweight.core.formats.base import Format, Grid, Packed
from featherweight.core.formats.composed import composed
from featherweight.core.formats.floats import Float
from featherweight.core.formats.ggml_blocks import GgmlBlocks
from featherweight.core.formats.ggml_layouts import LAYOUTS
from featherweight.core.formats.integer import NAME, PackedInteger

FLOATS = ("F32", "F16", "BF16")
GGUF_BLOCKS = tuple(LAYOUTS)
PACKED_INTEGERS = tuple(
    f"int{bits}-{group}{tail}"
    for bits in (4, 8)
    for group in ("g32", "g64", "g128", "channel")
    for tail in ("", "-asym")
)

__all__ = ["FLOATS", "GGUF_BLOCKS", "PACKED_INTEGERS", "Format", "Grid", "Packed", "get", "known"]


def known() -> tuple[str, ...]:
    """The names of the formats that are offered by name; any int2 ... int8 of the same pattern works too."""
    return (*FLOATS, *GGUF_BLOCKS, *PACKED_INTEGERS)


@functools.cache
def get(name: str) -> Format:
    """The format called `name`.

    Raises:
        FormatError: nothing has that name; the nearest ones are suggested.
    """
    if name in FLOATS:
        return Float(name)
    if name in LAYOUTS:
        return GgmlBlocks(name)
    if NAME.fullmatch(name):
        return PackedInteger(name)
    if "+" in name:
        return composed(name, get)
    raise FormatError(f"format {name!r}", "is unknown", nearest(name, known()) or f"use one of {', '.join(known())}")
