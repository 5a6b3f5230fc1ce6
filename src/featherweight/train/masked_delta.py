"""A masked low-rank change of rounded matrices, trained through the rounding: Q0 + Quant(M * BA).

A is [rank, columns], B [rows, rank] and zero at first, so that training starts at Q0 exactly. What goes forward is what
would be stored at that moment; the gradient goes straight through the rounding, and through the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from featherweight.core.checkpoint import Stored, values
from featherweight.core.lazy import torch
from featherweight.core.numerics import straight_through
from featherweight.core.patched import Patchable


class LowRank:
    """alpha / rank * B A of one matrix."""

    def __init__(self, shape: torch.Size, rank: int, alpha: float, generator: torch.Generator, device: str) -> None:
        rows, columns = shape
        self.scaling = alpha / rank
        rank = min(rank, rows, columns)
        bound = math.sqrt(1 / columns)
        a = (2 * torch.rand(rank, columns, generator=generator) - 1) * bound
        self.a, self.b = a.to(device), torch.zeros(rows, rank, device=device)

    def product(self) -> torch.Tensor:
        """The change, [rows, columns]."""
        return self.scaling * (self.b @ self.a)


class MaskedDelta:
    """Low-rank changes of some matrices, each under a mask.

    Args:
        matrices: what is changed, by parameter name.
        rank: of each change; at most the smaller side of its matrix.
        alpha: the change is scaled by alpha / rank.
        generator: draws A.
        device: where it is trained; rounding happens on the CPU.

    Attributes:
        masks: bool [rows, columns] by name; all ones at first.
    """

    def __init__(
        self,
        matrices: Mapping[str, Patchable],
        rank: int,
        alpha: float,
        generator: torch.Generator,
        device: str = "cpu",
    ) -> None:
        self.matrices, self.device = matrices, device
        self.before = {name: each.values.to(device) for name, each in matrices.items()}
        self.low_rank = {
            name: LowRank(each.values.shape, rank, alpha, generator, device) for name, each in matrices.items()
        }
        self.masks = {name: torch.ones_like(each.values, dtype=torch.bool) for name, each in matrices.items()}

    @property
    def factors(self) -> list[torch.Tensor]:
        """All A and B: what is trained."""
        return [factor for each in self.low_rank.values() for factor in (each.a, each.b)]

    def weights(self) -> dict[str, torch.Tensor]:
        """The changed matrices with a gradient to the factors, float32 by name."""
        result = {}
        for name, low_rank in self.low_rank.items():
            masked = low_rank.product() * self.masks[name].to(self.device)
            rounded = values(self._stored(name, masked)).to(self.device)
            result[name] = straight_through(self.before[name] + masked, rounded)
        return result

    def stored(self) -> dict[str, Stored]:
        """The changed matrices as they are kept, by name."""
        return {name: self._stored(name, low_rank.product()) for name, low_rank in self.low_rank.items()}

    def _stored(self, name: str, delta: torch.Tensor) -> Stored:
        return self.matrices[name].with_delta(delta.detach().cpu(), self.masks[name])
