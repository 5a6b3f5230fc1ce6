"""Masks on the factors of a low-rank change instead of on their product: whole rows of B and columns of A stay as are.

Coarser than a mask on the product, which factors cannot express: the change touches every column of the rows that may
move. After a refresh, rows that may no longer move keep what they learnt, so all masks together bound what changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from featherweight.core.lazy import torch
from featherweight.train.masked_delta import LowRank
from featherweight.train.saliency import highest


def row_fraction(mask: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns of A and the rows of B that may move: those with the largest fraction of marked weights.

    Args:
        mask: bool [rows, columns].
        share: of the rows, and of the columns.

    Returns:
        bool [1, columns] and bool [rows, 1].
    """
    fractions = {"columns": mask.float().mean(0, keepdim=True), "rows": mask.float().mean(1, keepdim=True)}
    found = highest(fractions, share)
    return found["columns"], found["rows"]


class FactorMasks:
    """Holds back what may not move, whatever an optimiser's moments would do with it.

    Args:
        low_rank: the factors, by name of their matrix.
        share: of the rows and columns that may move.
    """

    def __init__(self, low_rank: Mapping[str, LowRank], share: float) -> None:
        self.low_rank, self.share = low_rank, share
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._saved: list[torch.Tensor] = []

    def choose(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Takes masks of the products, bool [rows, columns] by name."""
        self._pairs = []
        for name, each in self.low_rank.items():
            columns, rows = row_fraction(masks[name], self.share)
            self._pairs += [(each.a, columns.to(each.a.device)), (each.b, rows.to(each.b.device))]

    def before_update(self, step: int) -> None:
        self._saved = [factor.detach().clone() for factor, _ in self._pairs]

    def after_update(self, step: int) -> None:
        for (factor, mask), saved in zip(self._pairs, self._saved, strict=True):
            factor.copy_(torch.where(mask, factor, saved))
