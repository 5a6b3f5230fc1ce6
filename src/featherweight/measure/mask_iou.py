"""How well predicted masks cover the objects of a scene: intersection over union, matched one to one (Hungarian).

Of a scene: the sum of the IoU over the best matching, divided by the number of objects or of predictions, whichever is
larger: an object that nothing covers and a prediction that covers nothing both cost. It knows no classes and no ranking
by confidence, so it is not COCO's AP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from featherweight.core.lazy import scipy, torch
from featherweight.core.scenes import Scenes, boxes

_BATCH = 16


def matched_iou(predicted: torch.Tensor, objects: torch.Tensor) -> float:
    """Of one scene, 0 to 1.

    Args:
        predicted: bool [predictions, height, width].
        objects: bool [objects, height, width], at least one.
    """
    if len(predicted) == 0:
        return 0.0
    overlap = pairwise_iou(predicted, objects)
    rows, columns = scipy.optimize.linear_sum_assignment(-overlap.numpy())
    return float(overlap[rows, columns].sum()) / max(overlap.shape)


def pairwise_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection over union of all pairs, float64 [first, second]; 0 of two empty masks."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None] - shared
    return shared / union.clamp(min=1)


def scene_ious(model: Any, scenes: Scenes) -> torch.Tensor:
    """Of every scene, float64 [scenes]. A model that gives boxes is judged on boxes.

    Args:
        model: Mask2Former or Deformable DETR, with or without adapters; its mode is put back afterwards.
        scenes: images and what is in them.
    """
    of_boxes = str(model.config.model_type) != "mask2former"
    was = model.training
    model.eval()
    try:
        found = [each for batch in _batches(scenes) for each in _batch_ious(model, batch, of_boxes)]
    finally:
        model.train(was)
    return torch.tensor(found, dtype=torch.float64)


def _batches(scenes: Scenes) -> Iterator[Scenes]:
    for first in range(0, len(scenes), _BATCH):
        yield scenes.take(range(first, min(first + _BATCH, len(scenes))))


def _batch_ious(model: Any, scenes: Scenes, of_boxes: bool) -> Iterator[float]:
    size = scenes.images.shape[-2:]
    predicted = _boxed(model, scenes.images) if of_boxes else _masked(model, scenes.images)
    for found, masks in zip(predicted, scenes.masks, strict=True):
        yield matched_iou(found, _drawn(boxes(masks), size) if of_boxes else masks)


def _masked(model: Any, images: torch.Tensor) -> Sequence[torch.Tensor]:
    """Masks of the queries that see an object, one bool tensor [predictions, height, width] an image."""
    with torch.no_grad():
        out = model(pixel_values=images.to(model.device))
    grown = torch.nn.functional.interpolate(out.masks_queries_logits, size=images.shape[-2:], mode="bilinear")
    # The last class is "no object".
    seen = out.class_queries_logits.argmax(-1) != out.class_queries_logits.shape[-1] - 1
    return [(logits[chosen] > 0).cpu() for logits, chosen in zip(grown, seen, strict=True)]


def _boxed(model: Any, images: torch.Tensor) -> Sequence[torch.Tensor]:
    with torch.no_grad():
        out = model(pixel_values=images.to(model.device))
    seen = out.logits.sigmoid().amax(-1) > 0.5
    found = zip(out.pred_boxes, seen, strict=True)
    return [_drawn(each[chosen].cpu(), images.shape[-2:]) for each, chosen in found]


def _drawn(found: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Boxes as masks, bool [boxes, height, width]."""
    x, y, width, height = found.unbind(1)
    inside = []
    for centre, length, pixels in ((y, height, size[0]), (x, width, size[1])):
        places = (torch.arange(pixels) + 0.5) / pixels
        inside.append((places[None] - centre[:, None]).abs() < length[:, None] / 2)
    return inside[0][:, :, None] & inside[1][:, None]
