"""Tables that an encoder looks tokens and positions up in: a vocabulary cut to some ids, positions used three ways.

This file is copied beside a saved model, so it imports nothing of Featherweight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

POSITIONS = ("matching", "interpolate", "slice")


class TrimmedEmbedding(nn.Module):
    """An embedding that keeps the rows of some ids; every other id reads one shared row, the last.

    The tokenizer stays as it is: ids of the whole vocabulary go in. Outputs for kept ids are those of the full table,
    bit for bit.

    Args:
        vocabulary: ids that may come in.
        rows: kept ids, without the shared row.
        width: of a row.
    """

    def __init__(self, vocabulary: int, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows + 1, width))
        self.register_buffer("row_of", torch.full((vocabulary,), rows, dtype=torch.int32))

    @classmethod
    def of(cls, table: torch.Tensor, kept: Sequence[int]) -> TrimmedEmbedding:
        """Some rows of a trained table [vocabulary, width]; the shared row is the mean of those that go."""
        trimmed = cls(len(table), len(kept), table.shape[1])
        trimmed.keep(kept)
        gone = torch.ones(len(table), dtype=torch.bool)
        gone[list(kept)] = False
        shared = table[gone].float().mean(0, keepdim=True) if bool(gone.any()) else torch.zeros_like(table[:1]).float()
        with torch.no_grad():
            trimmed.weight.data = torch.cat([table[list(kept)], shared.to(table.dtype)]).clone()
        return trimmed

    def keep(self, kept: Sequence[int]) -> None:
        """Says which ids the rows belong to, in this order."""
        row_of: Any = self.row_of
        row_of.fill_(len(kept))
        row_of[list(kept)] = torch.arange(len(kept), dtype=torch.int32, device=row_of.device)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        row_of: Any = self.row_of
        return nn.functional.embedding(row_of[ids], self.weight)


class PositionTable(nn.Module):
    """Learned positions, [rows, width], read in one of three ways up to `context` positions.

    - "matching": as many rows as positions.
    - "interpolate": all rows, linearly resampled to `context` positions. They depend on `context` only, never on the
      length of a batch, so that padding changes nothing.
    - "slice": the first `context` rows.

    A table that was trained one way and is read the other computes something else: `fold` ends that choice.
    """

    def __init__(self, rows: int, width: int, context: int, positions: str) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise ValueError(f"positions = {positions!r}: use one of {', '.join(POSITIONS)}")
        if rows < context or (positions == "matching" and rows != context):
            raise ValueError(f"a table of {rows} rows cannot be used as {positions!r} for {context} positions")
        self.context, self.positions = context, positions
        self.weight = nn.Parameter(torch.empty(rows, width))

    def table(self) -> torch.Tensor:
        """The row of each position, [context, width]."""
        return resized(self.weight, self.context, self.positions)

    def fold(self) -> None:
        """Keeps one row a position: the same function, which can be read in one way only."""
        self.weight = nn.Parameter(self.table().detach().clone())
        self.positions = "matching"

    def forward(self, length: int) -> torch.Tensor:
        return self.table()[:length]


def resized(table: torch.Tensor, rows: int, positions: str) -> torch.Tensor:
    """A position table [any, width] made to `rows` rows."""
    if positions == "interpolate" and len(table) != rows:
        resampled = nn.functional.interpolate(table.float().T[None], size=rows, mode="linear", align_corners=True)
        return resampled[0].T.to(table.dtype)
    return table[:rows]
