"""A linear layer with one weight and several masks, and the choice of mask for each row of a batch.

Masks are unpacked whenever they are used, so memory holds the weight, one bit a weight and domain, and one masked copy
of the layer at hand. That costs time: a server for one domain folds the model instead (`RoutedSparseModel.folded`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featherweight.core.errors import DataError
from featherweight.models.bitmasks import packed_bytes, unpack


@dataclass
class Route:
    """The mask of each row of the batches that are computed now; shared by all layers of a model.

    Attributes:
        picks: places of domains: one for all rows, or one for each.
    """

    picks: tuple[int, ...]

    def of(self, rows: int) -> tuple[int, ...]:
        """The mask of each of so many rows. A row that generation has repeated (beams, samples) keeps its own.

        Raises:
            DataError: the batch has another number of rows than tags were given for.
        """
        if rows % len(self.picks):
            raise DataError(
                f"a batch of {rows} rows", f"was given {len(self.picks)} tags",
                "give one tag for each row, or one for all",
            )  # fmt: skip
        return tuple(pick for pick in self.picks for _ in range(rows // len(self.picks)))


class RoutedLinear(torch.nn.Linear):
    """`mask * weight` in place of the weight, with the mask that the route names for each row.

    Attributes:
        masks: uint8 [domains, ceil(weights / 8)], see `models.bitmasks`.
    """

    masks: torch.Tensor

    def __init__(self, linear: torch.nn.Linear, domains: int, route: Route) -> None:
        weight = linear.weight
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, weight.device, weight.dtype)
        self.route = route
        self.register_buffer("masks", torch.zeros(domains, packed_bytes(weight.shape), dtype=torch.uint8))

    def mask(self, domain: int) -> torch.Tensor:
        """The mask of a domain, bool [out, in]."""
        return unpack(self.masks[domain], self.weight.shape)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs [rows, ..., out] of inputs [rows, ..., in]."""
        picks = self.route.of(inputs.shape[0])
        if len(set(picks)) == 1:
            return self._of(picks[0], inputs)
        outputs = inputs.new_empty(*inputs.shape[:-1], self.out_features)
        for domain in sorted(set(picks)):
            rows = [row for row, pick in enumerate(picks) if pick == domain]
            outputs[rows] = self._of(domain, inputs[rows])
        return outputs

    def _of(self, domain: int, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self.weight * self.mask(domain), self.bias)
