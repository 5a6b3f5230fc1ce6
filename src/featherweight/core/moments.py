"""The second moment of a linear's inputs, mean(x x^T): what GPTQ, SparseGPT and their kin know of the data.

Inputs arrive part by part; only the lower triangle is computed, in blocks: 0.6 of the work of the full product.
"""

from __future__ import annotations

from featherweight.core.lazy import torch

# Wide enough for a matrix product at full speed, narrow enough that little of the upper triangle is computed.
_BLOCK = 192


class Moment:
    """Mean of x x^T, or of its diagonal, over tokens that arrive part by part.

    Args:
        diagonal: whether the diagonal is all that is wanted.
    """

    def __init__(self, diagonal: bool = False) -> None:
        self.diagonal = diagonal
        self._count = 0
        self._sum: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor) -> Moment:
        """Takes in some tokens, [..., columns] in float32."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        columns = flat.shape[1]
        if self._sum is None:
            self._sum = flat.new_zeros((columns,) if self.diagonal else (columns, columns))
        self._count += flat.shape[0]
        if self.diagonal:
            self._sum += flat.square().sum(0)
            return self
        for first, last in _blocks(columns):
            self._sum[first:last, :last].addmm_(flat[:, first:last].T, flat[:, :last])
        return self

    def mean(self) -> torch.Tensor:
        """The mean over all tokens so far, float32 [columns, columns] or [columns] on the CPU; ends the adding up."""
        assert self._sum is not None, "no inputs were added"
        total, self._sum = self._sum, None
        if not self.diagonal:
            _mirror(total)
        return total.div_(self._count).cpu()


def _blocks(columns: int) -> list[tuple[int, int]]:
    return [(first, min(first + _BLOCK, columns)) for first in range(0, columns, _BLOCK)]


def _mirror(matrix: torch.Tensor) -> None:
    """Copies the lower triangle to the upper one, in place: exactly symmetric, whatever the products rounded."""
    for first, last in _blocks(matrix.shape[0]):
        corner = matrix[first:last, first:last]
        corner.copy_(corner.tril() + corner.tril(-1).T)
        matrix[:first, first:last] = matrix[first:last, :first].T


def importance_of(squares: torch.Tensor) -> torch.Tensor:
    """Weight of each column's squared error for a format's scale search, never zero.

    Args:
        squares: mean squared input of each column; only their ratios count.
    """
    return squares / squares.mean().clamp(min=1e-30) + 1e-4


def contributions(weight: torch.Tensor, moment: torch.Tensor, width: int) -> torch.Tensor:
    """E||D_g x_g||^2 of each part g of `width` columns.

    Args:
        weight: D, [rows, parts * width].
        moment: E[x x^T], [parts * width, parts * width].
        width: columns a part.
    """
    parts = weight.shape[1] // width
    own = moment.reshape(parts, width, parts, width).diagonal(dim1=0, dim2=2)  # [width, width, parts]
    columns = weight.reshape(-1, parts, width)
    return (torch.einsum("rpw,wvp->rpv", columns, own) * columns).sum((0, 2))
