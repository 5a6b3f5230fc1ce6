"""An encoder and a backbone: the common trunk of everything that a grid compares.

Signals pass a few convolutions that see the past only, so that no encoded position knows what a later one has to
predict; tokens pass an embedding. The encoder is the same for every backbone and every objective.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from featherweight.models.backbone import Backbone


class SignalEncoder(nn.Module):
    """Convolutions with GELU between them and a LayerNorm at the end.

    Args:
        channels: of the signal.
        width: of what comes out.
        kernels: samples that each convolution sees: its own position and those before it.
        strides: by how much each shortens the signal.
    """

    def __init__(self, channels: int, width: int, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.kernels = tuple(kernels)
        widths = (channels, *[width] * len(kernels))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, width, kernel, stride)
            for before, kernel, stride in zip(widths[:-1], kernels, strides, strict=True)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        """[rows, samples, channels] to [rows, length, width]; the length is that of the signal over all strides."""
        hidden = signals.mT
        for number, (convolution, kernel) in enumerate(zip(self.convolutions, self.kernels, strict=True)):
            hidden = nn.functional.gelu(hidden) if number else hidden
            hidden = convolution(nn.functional.pad(hidden, (kernel - 1, 0)))
        normed: torch.Tensor = self.norm(hidden.mT)
        return normed


class TokenEncoder(nn.Module):
    """An embedding with a LayerNorm.

    Args:
        tokens: different ones.
        width: of what comes out.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding, self.norm = nn.Embedding(tokens, width), nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [rows, length] to [rows, length, width]."""
        hidden: torch.Tensor = self.norm(self.embedding(ids))
        return hidden


class SequenceNetwork(nn.Module):
    """A backbone on what an encoder gives.

    Args:
        encoder: to [rows, length, width].
        backbone: of that width.
    """

    def __init__(self, encoder: nn.Module, backbone: Backbone) -> None:
        super().__init__()
        self.encoder, self.backbone = encoder, backbone
        self.width = backbone.width

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the backbone makes of the inputs, [rows, length, width]."""
        hidden: torch.Tensor = self.backbone(self.encoder(inputs))
        return hidden
