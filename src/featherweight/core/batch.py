"""Batch: rows of tokens to train on, which of them count, and where one conversation ends and the next begins.

Several conversations can share a row (packing). They do not see each other: positions start again with each, and the
attention mask lets a token look at earlier tokens of its own conversation only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featherweight.core.lazy import torch

IGNORED = -100
"""The label of a token that is not trained on, as everywhere in the field."""


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with labels.

    Attributes:
        ids: int64 [rows, length].
        labels: int64 [rows, length], the token itself where it counts, else IGNORED; not shifted.
        positions: int64 [rows, length], counted from 0 in every conversation.
        segments: int64 [rows, length], which conversation of the row a token belongs to; -1 = padding.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor

    @property
    def targets(self) -> torch.Tensor:
        """What each position has to predict, int64 [rows, length - 1]: labels shifted by one, within a conversation."""
        same = self.segments[:, 1:] == self.segments[:, :-1]
        return self.labels[:, 1:].masked_fill(~same, IGNORED)

    @property
    def trainable(self) -> int:
        """Number of predictions that count."""
        return int((self.targets != IGNORED).sum())

    @property
    def packed(self) -> bool:
        """Whether a row holds more than one conversation."""
        return bool((self.segments > 0).any())

    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a transformers causal language model."""
        inputs: dict[str, Any] = {"input_ids": self.ids, "position_ids": self.positions, "use_cache": False}
        if self.packed or bool((self.segments < 0).any()):
            inputs["attention_mask"] = self._mask()
        return inputs

    def _mask(self) -> torch.Tensor:
        """Where a token may look, boolean [rows, 1, length, length]; padding sees padding: no row is empty."""
        length = self.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return (earlier & same)[:, None]

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(*(each.to(device) for each in (self.ids, self.labels, self.positions, self.segments)))
