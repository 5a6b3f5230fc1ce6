"""Column-by-column rounding or pruning with second-order error feedback, shared by GPTQ and SparseGPT.

With inputs X and H = X^T X, setting column j of W to q_j and moving the columns after it by
-(w_j - q_j) / U_jj * U_j,j+1: minimises the change of W X, where H^-1 = U^T U (arXiv 2210.17323, 2301.00774).
Weights are kept transposed ([columns, rows]) so that a column is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable

from featherweight.core.lazy import torch

Decide = Callable[[int, "torch.Tensor"], "torch.Tensor"]
"""Takes a column index and its present weights [rows]; returns what they become."""

StartBlock = Callable[[int, "torch.Tensor"], None]
"""Takes the first column of a block and the block's present weights [columns, rows]; may prepare decisions."""

_SOLVED_AT_ONCE = 128


def inverse_factor(hessian: torch.Tensor, damping: float = 0.01, order: torch.Tensor | None = None) -> torch.Tensor:
    """Upper triangular U with (H + damping * mean(diag H) I)^-1 = U^T U, float32 [columns, columns].

    Columns that never saw an input get a unit diagonal, so that they are rounded without feedback.

    Args:
        hessian: H, symmetric; it is not changed.
        damping: share of the mean diagonal that is added to it.
        order: take the columns of H in this order; None = as they are.
    """
    diagonal = hessian.diagonal()
    strength = damping * torch.where(diagonal == 0, 1.0, diagonal).mean()
    reversed_order = (torch.arange(len(diagonal)) if order is None else order).flip(0)
    for _ in range(12):
        factor = _inverse_factor(hessian, strength, reversed_order)
        if factor is not None:
            return factor
        strength = strength * 10  # a nearly singular Hessian needs more damping, never an error
    raise ArithmeticError("the Hessian is not positive definite at any damping")


def _inverse_factor(hessian: torch.Tensor, added: torch.Tensor, reversed_order: torch.Tensor) -> torch.Tensor | None:
    # With rows and columns reversed, Cholesky gives H = R R^T with R upper triangular: U is its inverse.
    # It is symmetric, so its transpose is itself, and lies in memory as LAPACK wants it: computed in place.
    work = hessian[reversed_order[:, None], reversed_order].mT
    diagonal = work.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += added
    failed = torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(work, out=(work, failed))
    if bool(failed):
        return None
    _invert_lower(work)
    return work.flip(0, 1)


def _invert_lower(lower: torch.Tensor) -> None:
    """Inverts a lower triangular matrix in place, half by half: a third of the work of solving for the identity."""
    size = lower.shape[0]
    if size <= _SOLVED_AT_ONCE:
        lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(size, dtype=lower.dtype), upper=False))
        return
    half = size // 2
    first, corner, second = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    _invert_lower(first)
    _invert_lower(second)
    torch.mm(second @ corner, first.neg(), out=corner)


def sweep(
    columns: torch.Tensor, factor: torch.Tensor, decide: Decide, block: int = 64, start: StartBlock | None = None
) -> torch.Tensor:
    """Decides every column in turn, moving the later ones to make up for the error; in place.

    Args:
        columns: W transposed, float32 [columns, rows]; overwritten with the decided values.
        factor: U of `inverse_factor`, for the columns in the same order.
        decide: gives a column's new values.
        block: columns between two matrix-matrix updates of all later columns.
        start: called at each block's start.

    Returns:
        `columns`.
    """
    count = columns.shape[0]
    for first in range(0, count, block):
        last = min(first + block, count)
        part = columns[first:last]
        errors = torch.empty_like(part)
        corner = factor[first:last, first:last]
        diagonal = corner.diagonal().tolist()
        if start:
            start(first, part)
        for j in range(last - first):
            decided = decide(first + j, part[j])
            torch.sub(part[j], decided, out=errors[j])
            errors[j] /= diagonal[j]
            part[j] = decided
            if first + j + 1 < last:
                part[j + 1 :].addr_(corner[j, j + 1 :], errors[j], alpha=-1)
        if last < count:
            columns[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    return columns
