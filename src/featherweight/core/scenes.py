"""Scenes: images with a mask and a class for every object in them, what instance segmentation trains and is judged on.

Masks are as large as the images; an object without a pixel is no object. Where a model wants boxes, they are read off
the masks. `core.scene_folder` reads them from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch

_MEND = "give images [scenes, 3, height, width], and for each scene masks [objects, height, width] and classes"


@dataclass(frozen=True)
class Scenes:
    """Images with what is in them.

    Attributes:
        images: float32 [scenes, channels, height, width], scaled as the model expects.
        masks: bool [objects, height, width], one tensor a scene.
        classes: int64 [objects], one tensor a scene.
        source: what a person would call them, for errors.
        labels: names of the classes, where they are known.
    """

    images: torch.Tensor
    masks: tuple[torch.Tensor, ...]
    classes: tuple[torch.Tensor, ...]
    source: str = "the scenes"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or not self.images.is_floating_point():
            raise DataError(self.source, f"has images of the shape {list(self.images.shape)}", _MEND)
        if not len(self.images) == len(self.masks) == len(self.classes) > 0:
            counts = f"{len(self.images)} images, {len(self.masks)} sets of masks and {len(self.classes)} of classes"
            raise DataError(self.source, f"has {counts}", _MEND)
        if not bool(torch.isfinite(self.images).all()):
            raise DataError(self.source, "has NaN or infinite values in its images", "repair or drop these images")
        for index, (masks, classes) in enumerate(zip(self.masks, self.classes, strict=True)):
            self._check(index, masks, classes)

    def _check(self, index: int, masks: torch.Tensor, classes: torch.Tensor) -> None:
        name = f"{self.source}, scene {index}"
        if masks.dtype != torch.bool or masks.shape != (len(classes), *self.images.shape[-2:]):
            found = f"{str(masks.dtype).removeprefix('torch.')} {list(masks.shape)} for {len(classes)} classes"
            raise DataError(name, f"has masks {found}", _MEND)
        if len(masks) == 0:
            raise DataError(name, "has no object", "leave it out, or mark what is in it")
        if not bool(masks.flatten(1).any(1).all()):
            raise DataError(name, "has an object without a pixel", "leave that object out")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int]) -> Scenes:
        """Some of the scenes, in the given order."""
        masks, classes = tuple(self.masks[row] for row in rows), tuple(self.classes[row] for row in rows)
        return Scenes(self.images[list(rows)], masks, classes, self.source, self.labels)


def boxes(masks: torch.Tensor) -> torch.Tensor:
    """The box around each mask, float32 [objects, 4]: centre x, centre y, width, height, as shares of the image."""
    high, wide = masks.any(2).float(), masks.any(1).float()
    (top, bottom), (left, right) = _ends(high), _ends(wide)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1)


def _ends(occupied: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a row of zeros and ones begins and stops being one, as shares of its length: [objects] each."""
    length = occupied.shape[1]
    return occupied.argmax(1) / length, 1 - occupied.flip(1).argmax(1) / length
