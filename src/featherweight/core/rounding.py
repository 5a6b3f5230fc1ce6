"""Rounding of the weights that share an input, with second-order error feedback, onto any mix of formats.

Knows grids and Hessians; walking through a model is the techniques' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featherweight.core.formats import Grid, Packed, get
from featherweight.core.lazy import torch
from featherweight.core.moments import importance_of
from featherweight.core.second_order import inverse_factor, sweep


@dataclass(frozen=True)
class Feedback:
    """How the error of a column is passed on.

    Attributes:
        damping: share of the mean diagonal that is added to the Hessian.
        act_order: round the columns with the largest inputs first.
        block: columns between two large updates.
    """

    damping: float = 0.01
    act_order: bool = True
    block: int = 64


def round_with_feedback(
    weights: Mapping[str, torch.Tensor], formats: Mapping[str, str], hessian: torch.Tensor, feedback: Feedback
) -> dict[str, Packed]:
    """Rounds matrices that read the same input, in one sweep over its columns.

    Args:
        weights: float32 [rows, columns] by name; zeros of a pruned matrix are kept where the format can hold zero.
        formats: format name by tensor name.
        hessian: mean of x x^T over the calibration tokens, float32 [columns, columns].
        feedback: how errors are passed on.
    """
    importance = importance_of(hessian.diagonal())
    fitted = {name: get(formats[name]).fit(weight, importance) for name, weight in weights.items()}
    grids = {name: get(packed.format).grid(packed) for name, packed in fitted.items()}
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if feedback.act_order else None
    columns = torch.cat(list(weights.values())).T.contiguous()
    if order is not None:
        columns = columns[order]
    factor = inverse_factor(hessian, feedback.damping, order)
    decide = _Rounder(grids, order, columns if _is_sparse(columns) else None)
    sweep(columns, factor, decide, feedback.block)
    del factor
    if order is not None:
        columns = columns[torch.argsort(order)]
    result, row = {}, 0
    for name, packed in fitted.items():
        values = columns[:, row : row + packed.shape[0]].T
        result[name] = get(packed.format).recode(packed, grids[name].nearest(values))
        row += packed.shape[0]
    return result


def _is_sparse(weight: torch.Tensor) -> bool:
    return weight.numel() - int(torch.count_nonzero(weight)) > 0.05 * weight.numel()


class _Rounder:
    """Nearest grid value of a column, for matrices stacked row after row."""

    def __init__(self, grids: Mapping[str, Grid], order: torch.Tensor | None, sparse: torch.Tensor | None) -> None:
        self.order = None if order is None else order.tolist()
        self.kept = None if sparse is None else sparse != 0
        self.parts: list[_Part] = []
        row = 0
        for grid in grids.values():
            self.parts.append(_Part(grid, row))
            row += grid.scale.shape[0]
        self.parts = _merged(self.parts)

    def __call__(self, index: int, column: torch.Tensor) -> torch.Tensor:
        source = index if self.order is None else self.order[index]
        if self.kept is not None:
            column = column * self.kept[index]
        if len(self.parts) == 1:
            return self.parts[0].nearest(source, column)
        return torch.cat([part.nearest(source, column[part.first : part.last]) for part in self.parts])


class _Part:
    """Consecutive rows whose grids have the same group length and kind; scales transposed to [groups, rows]."""

    def __init__(self, grid: Grid, first: int) -> None:
        self.first, self.last = first, first + grid.scale.shape[0]
        self.group, self.levels = grid.group, grid.levels
        self.scale, self.minimum = grid.scale.T.contiguous(), grid.minimum.T.contiguous()
        self.low = torch.full((self.last - first,), float(grid.low))
        self.high = torch.full((self.last - first,), float(grid.high))
        self._finish()

    def _finish(self) -> None:
        self.inverse = torch.where(self.scale == 0, torch.zeros_like(self.scale), 1 / self.scale)
        if self.levels is not None:
            self.middle = (self.levels[1:] + self.levels[:-1]) / 2

    def join(self, other: _Part) -> None:
        """Takes over the rows of the part that follows."""
        self.last = other.last
        for name in ("scale", "minimum"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)], dim=1))
        self.low, self.high = torch.cat([self.low, other.low]), torch.cat([self.high, other.high])
        self._finish()

    def nearest(self, column: int, values: torch.Tensor) -> torch.Tensor:
        group = column // self.group
        scale, minimum = self.scale[group], self.minimum[group]
        target = torch.sub(values, minimum).mul_(self.inverse[group])
        if self.levels is not None:
            return self.levels[torch.bucketize(target, self.middle)] * scale + minimum
        target.round_()
        torch.clamp(target, self.low, self.high, out=target)
        return target.mul_(scale).add_(minimum)


def _merged(parts: list[_Part]) -> list[_Part]:
    """Neighbouring uniform parts of one group length as one part: fewer, larger operations a column."""
    result: list[_Part] = []
    for part in parts:
        last = result[-1] if result else None
        if last and last.group == part.group and last.levels is None and part.levels is None:
            last.join(part)
        else:
            result.append(part)
    return result
