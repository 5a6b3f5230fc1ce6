"""Conformity: do the layers tell the usual story of what is predicted?

The proto-class of a label is the sum of the conceptograms of calibration samples of that label which are predicted
rightly and with confidence, each layer's row normalised to 1. The score of a sample is the cosine between its
conceptogram and the proto-class of its predicted label: 1 = every layer as usual. It is a sign of trouble, not a proof:
it says that a sample is unlike the confident ones, in the labels that were given.

A label without a confident sample takes the rightly predicted ones, and failing those all of its samples; a label
without any has no proto-class, and what is predicted as that scores 0.

Source: arXiv 2604.08424.
"""

from __future__ import annotations

from dataclasses import dataclass

from featherweight.core.lazy import torch
from featherweight.measure.state_drift import cosine

CONFIDENT = 0.9


@dataclass(frozen=True)
class ProtoClasses:
    """The usual story of each label.

    Attributes:
        rows: float64 [labels, layers, labels]; each layer's row sums to 1, or is 0 where a label had no sample.
        samples: how many made each of them.
        confident: how many of those were predicted rightly and with confidence; fewer means that others stood in.
    """

    rows: torch.Tensor
    samples: tuple[int, ...]
    confident: tuple[int, ...]


@dataclass(frozen=True)
class Prediction:
    """What a model says of samples.

    Attributes:
        labels: the likeliest label of each, int64 [samples].
        confidence: its probability, float64 [samples].
    """

    labels: torch.Tensor
    confidence: torch.Tensor


def predicted(probabilities: torch.Tensor) -> Prediction:
    """The likeliest label of distributions [samples, labels], the first of equals."""
    confidence, labels = probabilities.double().max(1)
    return Prediction(labels, confidence)


def proto_classes(
    conceptograms: torch.Tensor, targets: torch.Tensor, prediction: Prediction, confident: float = CONFIDENT
) -> ProtoClasses:
    """The proto-class of every label.

    Args:
        conceptograms: of calibration samples, [samples, layers, labels].
        targets: their labels, int64 [samples].
        prediction: what the model said of them.
        confident: only samples with more confidence than this count, where there are any.
    """
    right = prediction.labels == targets
    rows, used, sure = [], [], []
    for label in range(conceptograms.shape[-1]):
        own = targets == label
        best = own & right & (prediction.confidence > confident)
        chosen = next((each for each in (best, own & right) if bool(each.any())), own)
        total = conceptograms[chosen].sum(0)
        rows.append(total / total.sum(-1, keepdim=True).clamp(min=1e-300))
        used.append(int(chosen.sum()))
        sure.append(int(best.sum()))
    return ProtoClasses(torch.stack(rows), tuple(used), tuple(sure))


def conformity(conceptograms: torch.Tensor, labels: torch.Tensor, protos: ProtoClasses) -> torch.Tensor:
    """Cosine of whole conceptograms with the proto-classes of the predicted labels, float64 [samples]."""
    return cosine(conceptograms.flatten(1), protos.rows[labels].flatten(1))


def conformity_by_layer(conceptograms: torch.Tensor, labels: torch.Tensor, protos: ProtoClasses) -> torch.Tensor:
    """The same row by row, float64 [samples, layers]: where a sample leaves the usual story."""
    return cosine(conceptograms, protos.rows[labels])
