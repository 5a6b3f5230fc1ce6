"""Parts of a model in their order of importance, so that every smaller width is a prefix of every larger one.

Who finds the order is `measure.ordering`; who keeps a prefix is a search, or the slicer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """Parts by index, most important first.

    Attributes:
        blocks: blocks.
        ffn: FFN channels by block.
        groups: key/value groups by block.
        hidden: channels of the residual stream.
    """

    blocks: Sequence[int]
    ffn: Mapping[int, Sequence[int]]
    groups: Mapping[int, Sequence[int]]
    hidden: Sequence[int]

    def reversed(self) -> Order:
        """The least important first: a control."""
        ffn, groups = ({block: [*reversed(each)] for block, each in axis.items()} for axis in (self.ffn, self.groups))
        return Order([*reversed(self.blocks)], ffn, groups, [*reversed(self.hidden)])

    def rank(self, block: int) -> int:
        """How many blocks matter more than this one."""
        return list(self.blocks).index(block)

    def kept(self, count: int) -> list[int]:
        """The `count` most important blocks, in the order in which they run."""
        return sorted(self.blocks[:count])
