"""A network of two layers as weights and a loss, for the tests of masked training."""

from __future__ import annotations

import torch

from featherweight.train.masked import Loss, Weights

START = {
    "first": torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),
    "second": torch.randn(3, 6, generator=torch.Generator().manual_seed(1)),
    "bias": torch.zeros(3),
}


def loss_of(seed: int) -> Loss:
    """Cross-entropy of a two-layer network on batches that depend on the seed and the number of the batch."""

    def loss(weights: Weights, batch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + batch)
        inputs, labels = torch.randn(8, 5, generator=generator), torch.randint(3, (8,), generator=generator)
        hidden = torch.relu(inputs @ weights["first"].T)
        return torch.nn.functional.cross_entropy(hidden @ weights["second"].T + weights["bias"], labels)

    return loss
