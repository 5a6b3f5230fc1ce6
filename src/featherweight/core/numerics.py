"""Numerics that several parts share and no library gives: straight-through rounding, ReinMax."""

from __future__ import annotations

from typing import Any

from featherweight.core.lazy import torch


def straight_through(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """`rounded` going forward, the gradient of `values` going back."""
    return rounded.detach() + (values - values.detach())  # adds exactly zero


def mean_and_scale(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column of [rows, columns]; a column that never changes has the scale 1."""
    mean, deviation = features.mean(0), features.std(0, correction=0)
    return mean, torch.where(deviation > 1e-6 * (mean.abs() + 1e-6), deviation, torch.ones_like(deviation))


def reinmax(logits: torch.Tensor, generator: torch.Generator, temperature: float = 1.0) -> torch.Tensor:
    """A one-hot sample of softmax(logits) with a second-order accurate gradient (arXiv 2304.08612).

    Args:
        logits: [..., choices].
        generator: draws the sample.
        temperature: of the gradient's softmax, at least 1.

    Returns:
        One-hot, the shape of `logits`.
    """
    probabilities = logits.detach().softmax(-1)
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    drawn = torch.multinomial(flat, 1, generator=generator).reshape(probabilities.shape[:-1])
    return reinmax_of(logits, torch.nn.functional.one_hot(drawn, logits.shape[-1]).to(logits.dtype), temperature)


def reinmax_of(logits: torch.Tensor, sample: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """`sample` going forward, ReinMax's gradient with respect to `logits` going back.

    Args:
        logits: [..., choices].
        sample: one-hot, the same shape.
        temperature: of the gradient's softmax, at least 1.
    """

    class Sampled(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, given: torch.Tensor) -> torch.Tensor:
            context.save_for_backward(given)
            return sample.clone()

        @staticmethod
        def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
            (given,) = context.saved_tensors
            return _reinmax_gradient(given, sample, gradients[0], temperature)

    return Sampled.apply(logits)  # type: ignore[no-untyped-call]


def _reinmax_gradient(
    logits: torch.Tensor, sample: torch.Tensor, gradient: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Twice the softmax gradient at the mean of tempered probabilities and sample, less half of the plain one."""
    mean = ((logits / temperature).softmax(-1) + sample) / 2
    plain = logits.softmax(-1)
    first = 2 * gradient * mean
    first = first - mean * first.sum(-1, keepdim=True)
    second = -gradient * plain / 2
    second = second - plain * second.sum(-1, keepdim=True)
    total = first + second
    return total - total.mean(-1, keepdim=True)
