"""Modified Gram-Schmidt on deltas of which only the inner products are known: Q_i = sum over j <= i of C_ij D_j.

Q_i = D_i - sum over j < i of <D_i, Q_j> / ||Q_j||^2 Q_j, in the order of arrival, in float64 (arXiv 2507.20997).
Working on coefficients with the Gram matrix as the inner product needs no delta in memory, and gives the whole model's
projection from one pass just as it gives one tensor's. Its price: inner products carry float64 rounding, so what is
left of a delta that is nearly a combination of earlier ones is known to about 1e-16 over its share. What is less than
`SAME` of a delta is taken for nothing: rounding to float32 does as much to it anyway.
"""

from __future__ import annotations

from featherweight.core.lazy import torch

SAME = 1e-4  # norm of what is left over the delta's norm, up to which a delta adds nothing to those before it


def gram_schmidt(gram: torch.Tensor) -> torch.Tensor:
    """Coefficients of the orthogonal deltas.

    Args:
        gram: inner products of the deltas in their order, float64 [deltas, deltas].

    Returns:
        C, float64 [deltas, deltas], lower triangular with ones on its diagonal; a row of zeros where nothing new is
        left of a delta. A delta of zeros keeps its row.
    """
    sizes = gram.diagonal().sqrt()
    scale = torch.where(sizes > 0, sizes, 1.0)
    unit = gram / scale[:, None] / scale  # so that a small delta beside a large one loses no digits
    rows = torch.eye(len(gram), dtype=torch.float64)
    for index in range(len(rows)):
        _project(rows, index, unit)
        left = float(rows[index] @ unit @ rows[index])
        if sizes[index] > 0 and left <= SAME**2:
            rows[index] = 0
    return rows * (scale[:, None] / scale)


def _project(rows: torch.Tensor, index: int, gram: torch.Tensor) -> None:
    """Takes the earlier directions out of one row, twice: once leaves rounding errors of the size of what went."""
    for _ in range(2):
        for earlier in rows[:index]:
            size = float(earlier @ gram @ earlier)
            if size > 0:
                rows[index] -= float(rows[index] @ gram @ earlier) / size * earlier
