"""The second moment of a linear's inputs, mean(x x^T): what GPTQ, SparseGPT and their kin know of the data.

Inputs arrive part by part; only the lower triangle is computed, in blocks, which is 0.6 of the work of the full product.
"""

from __future__ import annotations

from featherweight.core.lazy import torch

# Wide enough for a matrix product at full speed, narrow enough that little of the upper triangle is computed.
_BLOCK = 192


class SecondMoment:
    """Adds up x x^T over tokens.

    Attributes:
        count: tokens seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor) -> None:
        """Takes in some tokens, [..., columns] in float32."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        columns = flat.shape[1]
        if self._sum is None:
            self._sum = flat.new_zeros(columns, columns)
        self.count += flat.shape[0]
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            self._sum[first:last, :last].addmm_(flat[:, first:last].T, flat[:, :last])

    def mean(self) -> torch.Tensor:
        """Mean of x x^T over all tokens so far, float32 [columns, columns] on the CPU; ends the adding up."""
        assert self._sum is not None, "no inputs were added"
        total, self._sum = self._sum, None
        columns = total.shape[0]
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            corner = total[first:last, first:last]
            corner.copy_(corner.tril() + corner.tril(-1).T)  # exactly symmetric, whatever the product rounded
            total[:first, first:last] = total[first:last, :first].T
        return total.div_(self.count).cpu()


def second_moment(inputs: torch.Tensor) -> torch.Tensor:
    """Mean of x x^T over all tokens of [..., columns]."""
    moment = SecondMoment()
    moment.add(inputs)
    return moment.mean()
