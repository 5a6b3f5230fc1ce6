"""Fastfood: a random linear map from d numbers to N by Hadamard transforms, the control of a partition.

Blocks of length D = 2^ceil(log2 d) are stacked: H G Pi H B applied to the d numbers padded with zeros, with B random
signs, Pi a random permutation, G independent normal numbers and H the Hadamard matrix of entries +-1. Divided by
sqrt(D * N) the map keeps lengths in expectation only. It mixes all numbers into every result, costs D log D a block,
and is made anew from (seed, block) whenever it is needed. arXiv 1408.3060; as a control in arXiv 2605.14841.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math

from featherweight.core.lazy import torch
from featherweight.core.partition import require_room


@dataclasses.dataclass(frozen=True)
class Fastfood:
    """The map of stacked blocks.

    Attributes:
        total: N.
        groups: d.
        seed: of signs, permutations and normal numbers.
    """

    total: int
    groups: int
    seed: int = 0

    def __post_init__(self) -> None:
        require_room(self.groups, self.total)

    @property
    def empty(self) -> int:
        """Numbers that change nothing: none."""
        return 0

    @property
    def length(self) -> int:
        """D, of a block."""
        return 1 << (self.groups - 1).bit_length()

    @property
    def digest(self) -> str:
        """SHA-256 over what is drawn for the first block."""
        parts = self._block(0, torch.device("cpu"))
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    def _block(self, block: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Signs, permutation and normal numbers of a block, each [D]."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + block) % 2**63)
        signs = torch.randint(0, 2, (self.length,), generator=generator) * 2 - 1
        order = torch.randperm(self.length, generator=generator)
        normal = torch.randn(self.length, generator=generator)
        return signs.to(device), order.to(device), normal.to(device)

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.length * self.total)

    def expand(self, theta: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Places `start` to `stop` of the result of [groups] numbers."""
        padded = torch.nn.functional.pad(theta, (0, self.length - self.groups))
        pieces = []
        for block in range(start // self.length, -(-stop // self.length)):
            signs, order, normal = self._block(block, theta.device)
            values = hadamard(hadamard(padded * signs)[order] * normal.to(theta))
            offset = block * self.length
            pieces.append(values[max(start - offset, 0) : stop - offset])
        return torch.cat(pieces) * self._scale

    def reduce(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """What values [n] for the places from `start` on give under the transposed map, [groups]."""
        stop, sums = start + len(values), values.new_zeros(self.length)
        for block in range(start // self.length, -(-stop // self.length)):
            signs, order, normal = self._block(block, values.device)
            offset = block * self.length
            first, last = max(start, offset), min(stop, offset + self.length)
            filled = values.new_zeros(self.length)
            filled[first - offset : last - offset] = values[first - start : last - start]
            back = torch.zeros_like(filled)
            back[order] = hadamard(filled) * normal.to(values)
            sums += hadamard(back) * signs
        return sums[: self.groups] * self._scale


def hadamard(values: torch.Tensor) -> torch.Tensor:
    """The Walsh-Hadamard transform of [D] numbers, D a power of two, without any scale."""
    length, width = len(values), 1
    while width < length:
        pairs = values.view(-1, 2, width)
        values = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], dim=1).view(-1)
        width *= 2
    return values
