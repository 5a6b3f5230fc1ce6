"""Outlines of objects as COCO annotations have them: polygons, runs of pixels, or runs in COCO's compressed form.

Drawn with Pillow, at the size of the image that they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import np

REDO = "export the annotations as COCO (instance segmentation)"
"""What to do about annotations that cannot be read."""


def outline_mask(each: Mapping[str, Any], size: tuple[int, int], boxes: bool, source: str) -> Any:
    """An object's mask as a Pillow image, 255 where it is.

    Args:
        each: the annotation.
        size: width and height of its image.
        boxes: whether an object without an outline fills its box.
        source: names the file in errors.

    Raises:
        DataError: it has no outline, or one of no known kind.
    """
    name, outline = f"{source}, annotation {each.get('id')}", each.get("segmentation")
    try:
        if isinstance(outline, Mapping):
            return _of_runs(outline, size)
        if outline:
            return _of_polygons(outline, size)
        if boxes:
            left, top, width, height = map(float, each["bbox"])
            right, bottom = left + width - 1, top + height - 1
            return _of_polygons([[left, top, right, top, right, bottom, left, bottom]], size)
    except (ValueError, TypeError, KeyError, IndexError):
        raise DataError(name, "has an outline that is neither polygons nor runs of pixels", REDO) from None
    mend = "outline the objects, or read them with boxes=True for a detector"
    raise DataError(name, "has no outline, only a box", mend)


def _of_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Any:
    """The area inside any of some polygons, each x, y, x, y and so on."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", size)
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(list(map(float, polygon)), fill=255)
    return mask


def _of_runs(outline: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Runs of pixels off and on in turn, column by column, as an image."""
    from PIL import Image

    height, width = (int(each) for each in outline["size"])
    counts = outline["counts"]
    runs = np.array(_unpacked(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    if (width, height) != size or runs.sum() != height * width or (runs < 0).any():
        raise ValueError
    pixels = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8) * 255
    return Image.fromarray(np.ascontiguousarray(pixels.reshape(width, height).T))


def _unpacked(text: str) -> list[int]:
    """The runs in COCO's compressed form: five bits a character, low ones first, differences from the run before last.

    A character is 48 plus its bits; the sixth says that more follow, the fifth of the last one is the sign.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
