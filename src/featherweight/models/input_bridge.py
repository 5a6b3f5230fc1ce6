"""Input bridge: windows of a sensor's signals as embeddings of a language model, a worked example of non-text input.

Channels are mixed by y = (A0 + dA) x: A0 is what is known of the sensor (physics, a wiring plan, a pretrained model's
montage), dA is learnt and starts at 0, so at first the bridge computes exactly what is known. Then the samples are cut
into patches, and each patch becomes one position. A stock transformers model takes them as `inputs_embeds`.

After the LeadBridge of CogAdapt (arXiv 2605.22774), whose architecture is not public.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from featherweight.core.errors import RecipeError


class ChannelBridge(nn.Module):
    """Mixes channels by a known matrix and a learnt change of it.

    Args:
        known: [channels out, channels in]; rows of zeros where nothing is known.
    """

    known: torch.Tensor

    def __init__(self, known: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("known", known.clone())
        self.change = nn.Parameter(torch.zeros_like(known))

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        """[rows, channels in, samples] to [rows, channels out, samples]."""
        return (self.known + self.change) @ signals

    def strayed(self, channels: Sequence[int]) -> torch.Tensor:
        """Mean square of the change of some rows: a penalty that keeps them near what is known."""
        return (self.change[list(channels)] ** 2).mean()


class SensorModel(nn.Module):
    """A bridge, patches as positions, a transformers trunk, and a linear head on its last position.

    Args:
        trunk: a transformers model without a head, such as `LlamaModel`.
        bridge: its channels out are what a patch holds.
        patch: samples a position; a window's length is a multiple of it.
        classes: outputs of the head.
    """

    def __init__(self, trunk: Any, bridge: ChannelBridge, patch: int, classes: int) -> None:
        super().__init__()
        self.bridge, self.trunk, self.patch = bridge, trunk, patch
        self.project = nn.Linear(bridge.known.shape[0] * patch, trunk.config.hidden_size)
        self.head = nn.Linear(trunk.config.hidden_size, classes)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        """[rows, channels in, samples] to logits [rows, classes].

        Raises:
            RecipeError: the window is no whole number of patches.
        """
        rows, _, samples = signals.shape
        if samples % self.patch:
            raise RecipeError(
                f"a window of {samples} samples", f"is no whole number of patches of {self.patch}", "cut or pad it"
            )
        pieces = self.bridge(signals).unflatten(-1, (-1, self.patch)).transpose(1, 2)
        embedded = self.project(pieces.reshape(rows, samples // self.patch, -1))
        hidden: torch.Tensor = self.trunk(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.head(hidden[:, -1])
        return logits


def limb_leads() -> torch.Tensor:
    """The limb leads I, II, III, aVR, aVL, aVF from I and II, [6, 2]: Einthoven's and Goldberger's algebra."""
    return torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [-0.5, -0.5], [1.0, -0.5], [-0.5, 1.0]])
