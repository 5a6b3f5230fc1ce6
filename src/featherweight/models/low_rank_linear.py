"""A linear layer as the product of two thin ones, fitted to what the layer is used for.

W is replaced by U V of rank r with the least E |W x - U V x|^2 over the layer's inputs: with H = E[x x^T] = L L^T it is
the truncated singular value decomposition of W L, taken back by L^-1 (arXiv 2403.07378). r (rows + columns) numbers
instead of rows x columns.
"""

from __future__ import annotations

import torch
from torch import nn

_DAMPING = 1e-4  # of the mean of H's diagonal, more where H is singular
_SMALLEST = 1e-12  # eigenvalue that counts, as a share of the largest


class LowRankLinear(nn.Module):
    """y = U (V x) + b.

    Args:
        up: U, [rows, rank].
        down: V, [rank, columns].
        bias: [rows], or None.
    """

    def __init__(self, up: torch.Tensor, down: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up), nn.Parameter(down)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., columns] to [..., rows]."""
        return nn.functional.linear(nn.functional.linear(inputs, self.down), self.up, self.bias)


def factors(weight: torch.Tensor, moment: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """U and V, float32, with the singular values shared between both.

    Args:
        weight: [rows, columns].
        moment: E[x x^T] of the inputs, [columns, columns].
        rank: at most the smaller side.
    """
    exact = weight.double()
    seen = exact @ _root(moment.double())
    left, sizes = _leading(seen, rank)
    share = sizes.sqrt()
    # The best approximation of W L is P W L, with P onto its first left singular vectors: so that of W is P W.
    return (left * share).float().contiguous(), ((left.T @ exact) / share[:, None]).float().contiguous()


def _leading(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first left singular vectors and values, from the smaller of the two Gram matrices: faster than an SVD."""
    wide = matrix.shape[0] <= matrix.shape[1]
    values, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    values, vectors = values[-rank:].flip(0), vectors[:, -rank:].flip(1)
    sizes = values.clamp(min=_SMALLEST * float(values[0].clamp(min=1e-30))).sqrt()
    return (vectors if wide else matrix @ vectors / sizes), sizes


def _root(moment: torch.Tensor) -> torch.Tensor:
    """L with L L^T = H, damped until it exists."""
    unit = torch.eye(len(moment), dtype=moment.dtype) * moment.diagonal().mean().clamp(min=1e-30)
    damping = _DAMPING
    while True:
        root, failed = torch.linalg.cholesky_ex(moment + damping * unit)
        if not bool(failed):
            found: torch.Tensor = root
            return found
        damping *= 10


def rank_of(rows: int, columns: int, share: float) -> int:
    """The rank with which two thin matrices hold at most a share of the numbers of the whole; 1 at least."""
    return max(1, int(share * rows * columns / (rows + columns)))
