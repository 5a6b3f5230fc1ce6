"""SNIP scores (arXiv 1810.02340) and the mask of the weights that score highest.

A weight's score is |W dL/dQ|, averaged over examples: the first-order change of the loss if the weight were gone. The
absolute value is taken example by example, so that opposite gradients do not cancel; that costs a backward pass each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from featherweight.core.lazy import torch
from featherweight.core.sparsity import lowest

Scores = Mapping[str, "torch.Tensor"]


def snip_scores(
    loss: Callable[[Scores, int], torch.Tensor],
    examples: int,
    current: Scores,
    weights: Scores,
) -> dict[str, torch.Tensor]:
    """The score of every weight, float32 [rows, columns] by name.

    Args:
        loss: of an example by its index, computed with the given weights, through which its gradient is taken.
        examples: how many there are.
        current: where the gradient is taken: the weights Q, by name.
        weights: what the gradient is multiplied with: W, by name, of the same shapes.
    """
    leaves = {name: each.detach().clone().requires_grad_(True) for name, each in current.items()}
    total = {name: torch.zeros_like(each) for name, each in current.items()}
    for example in range(examples):
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(leaves, example), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            total[name] += gradient.abs()
    return {name: each.mul_(weights[name].abs()).div_(examples) for name, each in total.items()}


def highest(scores: Scores, share: float, compare: Literal["matrix", "model"] = "matrix") -> dict[str, torch.Tensor]:
    """Marks the exact share of weights with the highest scores, bool [rows, columns] by name; of equal ones the last.

    Args:
        scores: by name.
        share: of the weights, rounded to a whole number of them.
        compare: within each matrix, or over all of them together.
    """
    if compare == "matrix":
        return {name: _highest(each.reshape(-1), share).reshape(each.shape) for name, each in scores.items()}
    flat = _highest(torch.cat([each.reshape(-1) for each in scores.values()]), share)
    parts = flat.split([each.numel() for each in scores.values()])
    return {name: part.reshape(each.shape) for (name, each), part in zip(scores.items(), parts, strict=True)}


def _highest(scores: torch.Tensor, share: float) -> torch.Tensor:
    count = scores.numel() - round(share * scores.numel())
    return ~lowest(scores[None], count)[0]
