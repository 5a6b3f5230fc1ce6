"""Scenes: what is refused, parts of them, and the boxes around masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from featherweight.core.errors import DataError
from featherweight.core.scenes import Scenes, boxes
from featherweight.testing.segmenters import coloured_shapes

IMAGES = torch.zeros(1, 3, 4, 4)
MASKS = torch.ones(2, 4, 4, dtype=torch.bool)
CLASSES = torch.zeros(2, dtype=torch.int64)


def test_boxes_are_those_of_a_loop() -> None:
    for masks in coloured_shapes(6).masks:
        for mask, (x, y, width, height) in zip(masks, boxes(masks).tolist(), strict=True):
            rows, columns = mask.nonzero().unbind(1)
            top, bottom = int(rows.min()) / 64, (int(rows.max()) + 1) / 64
            left, right = int(columns.min()) / 64, (int(columns.max()) + 1) / 64
            expected = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
            assert (x, y, width, height) == pytest.approx(expected, abs=1e-6)


def test_a_part_keeps_what_belongs_together() -> None:
    scenes = coloured_shapes(5)
    part = scenes.take([3, 1])
    assert torch.equal(part.images[0], scenes.images[3])
    assert torch.equal(part.masks[1], scenes.masks[1])
    assert len(part) == 2


@pytest.mark.parametrize(
    ("images", "masks", "classes", "message"),
    [
        (IMAGES[0], (MASKS,), (CLASSES,), r"has images of the shape \[3, 4, 4\]; give images"),
        (IMAGES.long(), (MASKS,), (CLASSES,), "has images of the shape"),
        (IMAGES, (MASKS, MASKS), (CLASSES,), "has 1 images, 2 sets of masks and 1 of classes"),
        (IMAGES / 0, (MASKS,), (CLASSES,), "has NaN or infinite values in its images"),
        (IMAGES, (MASKS.float(),), (CLASSES,), r"scene 0: has masks float32 \[2, 4, 4\] for 2 classes"),
        (IMAGES, (MASKS[:, :2],), (CLASSES,), r"scene 0: has masks bool \[2, 2, 4\] for 2 classes"),
        (IMAGES, (MASKS[:0],), (CLASSES[:0],), "scene 0: has no object; leave it out"),
        (IMAGES, (~MASKS,), (CLASSES,), "scene 0: has an object without a pixel"),
    ],
)
def test_what_is_no_scene_is_refused(images: Any, masks: Any, classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Scenes(images, masks, classes)
