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


def inverse_factor(hessian: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    """Upper triangular U with (H + damping * mean(diag H) I)^-1 = U^T U, float32 [columns, columns].

    Columns that never saw an input get a unit diagonal, so that they are rounded without feedback.
    """
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0
    strength = damping * diagonal.mean()
    for _ in range(12):
        attempt = damped.clone()
        attempt.diagonal().add_(strength)
        lower, failed = torch.linalg.cholesky_ex(attempt)
        if not bool(failed):
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not bool(failed):
                return upper
        strength = strength * 10  # a nearly singular Hessian needs more damping, never an error
    raise ArithmeticError("the Hessian is not positive definite at any damping")


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
