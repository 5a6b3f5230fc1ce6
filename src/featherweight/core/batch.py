"""Batch: rows of tokens to train on, which of them count, and where one conversation ends and the next begins.

Several conversations can share a row (packing). They do not see each other: positions start again with each, from which
transformers makes attention masks that let a token look at earlier tokens of its own conversation only. Padding comes
last in a row, where causal attention hides it from everything before it.
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
        positions: int64 [rows, length], counted from 0 in every conversation; padding may count on.
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
        """Keyword arguments of a transformers causal language model.

        No mask is among them: from positions that start again it makes the masks that each of its layers needs, those
        of sliding windows too, and where none start again the fast causal path stays open.
        """
        return {"input_ids": self.ids, "position_ids": self.positions, "use_cache": False}

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(*(each.to(device) for each in (self.ids, self.labels, self.positions, self.segments)))
