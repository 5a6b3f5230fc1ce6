"""How far new images are from those that a model was pretrained on, as its backbone sees them.

The score is a Fréchet distance (of two normal distributions with independent channels) between pooled backbone
features, in units of the reference's own spread:

    score^2 = mean over channels of ((m' - m) / s)^2 + (s' / s - 1)^2

with m, s and m', s' mean and standard deviation over images, of the means over space of all feature maps. 0 is no shift
and 1 is as far as one standard deviation of the reference, in every channel; one that does not vary there is left out.
Samples make it larger: two draws of N images from one place score about sqrt(3 / N), so give at least some dozens.

A linear probe that tells the two sets apart (`probe_accuracy`) is the other obvious measure. It saturates: a change of
colour alone is told apart as surely as a new world. It is offered to compare with, and nothing is decided by it.
"""

from __future__ import annotations

from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch

_BATCH = 32
_LEAST = 8
_PROBE_STEPS = 200


def feature_shift(reference: torch.Tensor, new: torch.Tensor) -> float:
    """The score of features.

    Args:
        reference: of pretraining-like images, float32 [images, channels].
        new: of the images to adapt to.

    Raises:
        DataError: there are fewer than eight of either, or no feature varies.
    """
    _require_enough(reference, new)
    a, b = reference.double(), new.double()
    spread = a.std(0)
    varies = spread > 1e-6 * a.abs().amax(0)
    if not bool(varies.any()):
        raise DataError("the reference images", "all look the same to the backbone", "give different ones")
    mean = (b.mean(0) - a.mean(0)) / spread
    width = b.std(0) / spread - 1
    return float((mean.square() + width.square())[varies].mean().sqrt())


def probe_accuracy(reference: torch.Tensor, new: torch.Tensor, generator: torch.Generator) -> float:
    """Balanced accuracy with which a linear probe tells features of the two sets apart, on held-out halves.

    Args:
        reference: of pretraining-like images, float32 [images, channels].
        new: of the images to adapt to.
        generator: draws the halves and the probe.
    """
    from featherweight.models.grafted import dense_layers
    from featherweight.train.head import Fitting, train_head

    _require_enough(reference, new)
    halves = [each[torch.randperm(len(each), generator=generator)].tensor_split(2) for each in (reference, new)]
    probe = dense_layers([reference.shape[1], 2], generator)
    labels = torch.cat([torch.full((len(first),), index) for index, (first, _) in enumerate(halves)])
    features = torch.cat([first for first, _ in halves])
    train_head(probe, features, labels, Fitting(_PROBE_STEPS), generator)
    with torch.no_grad():
        right = [(probe(second).argmax(1) == index).double().mean() for index, (_, second) in enumerate(halves)]
    return float(torch.stack(right).mean())


def pooled_features(backbone: Any, images: torch.Tensor) -> torch.Tensor:
    """Means over space of all feature maps, float32 [images, channels of all maps].

    Args:
        backbone: gives `feature_maps`; its mode is put back afterwards.
        images: float32 [images, channels, height, width].
    """
    was, device = backbone.training, next(backbone.parameters()).device
    backbone.eval()
    try:
        with torch.no_grad():
            maps = [backbone(batch.to(device)).feature_maps for batch in images.split(_BATCH)]
    finally:
        backbone.train(was)
    return torch.cat([torch.cat([each.float().mean((2, 3)) for each in levels], 1) for levels in maps]).cpu()


def _require_enough(reference: torch.Tensor, new: torch.Tensor) -> None:
    for name, features in (("reference", reference), ("new", new)):
        if len(features) < _LEAST:
            raise DataError(f"the {name} images", f"are {len(features)}", f"give at least {_LEAST}")
