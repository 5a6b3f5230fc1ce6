"""Linear probes: how well classes can be read off features by one linear map, without training anything by steps.

Ridge regression from standardised features to one-hot classes, in its dual form: features enter only through the inner
products of rows, so probing several layers together is adding their kernels. Cost: rows^3 a probe, whatever the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.lazy import torch
from featherweight.core.numerics import mean_and_scale


@dataclass(frozen=True)
class Kernel:
    """Mean products of standardised features.

    Attributes:
        training: of training rows with one another, float64 [training, training].
        validation: of validation rows with training rows, float64 [validation, training].
    """

    training: torch.Tensor
    validation: torch.Tensor


def kernel_of(training: torch.Tensor, validation: torch.Tensor) -> Kernel:
    """The kernel of one layer's features, [training rows, width] and [validation rows, width]."""
    mean, scale = mean_and_scale(training.double())
    one, other = (training.double() - mean) / scale, (validation.double() - mean) / scale
    width = training.shape[1]
    return Kernel(one @ one.T / width, other @ one.T / width)


def probe_accuracy(
    kernels: Sequence[Kernel], training: torch.Tensor, validation: torch.Tensor, ridge: float = 0.1
) -> float:
    """Share of validation rows whose class a linear probe of some layers together finds.

    Args:
        kernels: of the layers; each counts as much as the others, whatever its width.
        training: classes of the training rows, int64.
        validation: classes of the validation rows, int64.
        ridge: in units of a row's mean square.
    """
    count = int(torch.cat([training, validation]).max()) + 1
    wanted = torch.nn.functional.one_hot(training, count).double()
    mean = wanted.mean(0)
    kernel = torch.stack([each.training for each in kernels]).mean(0)
    solved = torch.linalg.solve(kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype), wanted - mean)
    scores = torch.stack([each.validation for each in kernels]).mean(0) @ solved + mean
    return float((scores.argmax(1) == validation).double().mean())
