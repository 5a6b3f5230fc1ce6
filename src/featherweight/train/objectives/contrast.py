"""Contrastive predictive coding: which of several positions is the one k steps ahead?

p_i = W h_i for i = 0, ..., L - k - 1; candidates are z_(i+k) and n positions drawn uniformly from the others of the
same sequence; the loss is the cross-entropy of <p_i, candidate> / tau, summed over positions, averaged over rows. Only
the offset k is predicted, not all offsets up to it. h is the backbone's output, z the encoder's, without normalisation
of their lengths. arXiv 2605.12241 (its code); the loss is InfoNCE of arXiv 1807.03748.

Scores of all pairs of positions are one matrix product, from which the candidates' are taken: the candidates
themselves, [rows, positions, n, width], never exist.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from featherweight.core.errors import TrainingError
from featherweight.models.sequence_network import SequenceNetwork
from featherweight.train.objectives.base import Objective, Task


class ContrastivePrediction(Objective):
    """Picks the encoded position a fixed offset ahead out of others of the same sequence."""

    name: ClassVar[str] = "cpc"
    causal: ClassVar[bool] = True
    paper: ClassVar[str] = "2605.12241"

    offset: int = Field(14, ge=1, description="positions ahead")
    negatives: int = Field(128, ge=1, description="other candidates of a position")
    temperature: float = Field(1.0, gt=0, description="scores are divided by it")

    def task(self, network: SequenceNetwork, generator: torch.Generator) -> Task:
        return _Contrast(network, self, generator)


class _Contrast(Task):
    def __init__(self, network: SequenceNetwork, fields: ContrastivePrediction, generator: torch.Generator) -> None:
        super().__init__(network)
        self.fields = fields
        width = network.width
        self.predict = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.predict.weight.copy_(torch.randn(width, width, generator=generator) * width**-0.5)

    def loss(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        encoded = self.network.encoder(inputs)
        predicted = self.predict(self.network.backbone(encoded))
        fields = self.fields
        return info_nce(predicted, encoded, fields.offset, fields.negatives, fields.temperature, generator)


def info_nce(
    predicted: torch.Tensor, states: torch.Tensor, offset: int, negatives: int, temperature: float,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Sum over positions of the cross-entropy of the right candidate, averaged over rows.

    Args:
        predicted: what each position expects, [rows, length, width].
        states: what there is, the same shape.
        offset: positions ahead.
        negatives: other candidates, drawn for every position.
        temperature: scores are divided by it.
        generator: draws them.

    Raises:
        TrainingError: the sequences are too short for the offset.
    """
    rows, length, _ = states.shape
    positions = length - offset
    if positions < 1 or length < 2:
        raise TrainingError(
            f"an offset of {offset}", f"leaves nothing to predict in sequences of {length} positions",
            "lower it, or give longer sequences",
        )  # fmt: skip
    scores = (predicted[:, :positions] @ states.mT) / temperature
    columns = candidates(rows, length, offset, negatives, generator).to(scores.device)
    chosen = scores.gather(2, columns)
    return (torch.logsumexp(chosen, -1) - chosen[..., 0]).sum() / rows


def candidates(rows: int, length: int, offset: int, negatives: int, generator: torch.Generator) -> torch.Tensor:
    """The candidates of every position: first the right one, then others.

    Returns:
        Positions, int64 [rows, length - offset, 1 + negatives].
    """
    right = torch.arange(offset, length).expand(rows, -1)[..., None]
    others = torch.randint(length - 1, (rows, length - offset, negatives), generator=generator)
    return torch.cat([right, others + (others >= right)], -1)
