"""A plan of what to keep of a model, checked against it and turned into indices along each tensor's dimensions.

Knows axes and counts, no weights. Every block keeps equally many channels and groups, because the stock classes ask for
it. A head that gets narrower keeps the first rotary pairs {i, i + half}: rotation turns channels i and i + half
together, so cutting the last channels would tear every pair apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.architecture import EMBEDDING, FINAL_NORM, Architecture, block_index, block_part
from featherweight.core.errors import SliceError
from featherweight.core.lazy import torch

Picks = tuple["torch.Tensor | None", ...]
"""For each dimension of a tensor the indices to keep, int64; None = all."""


@dataclass(frozen=True)
class Keep:
    """What stays of a model, as ascending indices; None = everything.

    Attributes:
        blocks: blocks.
        ffn: FFN channels, by the index that a kept block has in the model to be sliced.
        groups: key/value heads, each with the query heads that read it, by block in the same way.
        hidden: channels of the residual stream.
        head_dim: channels of every head, the first half of them from each half of the head.
        renormalise: norms divide by the root mean square over the kept hidden channels alone, instead of computing as
            if the dropped ones were zero: right where those are as large as the kept ones.
    """

    blocks: Sequence[int] | None = None
    ffn: Mapping[int, Sequence[int]] | None = None
    groups: Mapping[int, Sequence[int]] | None = None
    hidden: Sequence[int] | None = None
    head_dim: int | None = None
    renormalise: bool = False


@dataclass(frozen=True)
class Cut:
    """A checked plan; a choice that is everything is None."""

    architecture: Architecture
    blocks: Sequence[int]
    ffn: Mapping[int, Sequence[int]] | None
    groups: Mapping[int, Sequence[int]] | None
    hidden: Sequence[int] | None
    head_dim: int | None = None
    renormalise: bool = False

    @property
    def whole(self) -> bool:
        """Whether nothing is dropped."""
        choices = (self.ffn, self.groups, self.hidden, self.head_dim)
        return len(self.blocks) == self.architecture.blocks and all(choice is None for choice in choices)

    def picks(self, name: str, dimensions: int) -> Picks:
        """The indices to keep of each dimension of a parameter."""
        block = block_index(name)
        return tuple(self._along(axis, block) for axis in self.architecture.axes(name, dimensions))

    def _along(self, axis: str, block: int | None) -> torch.Tensor | None:
        """Indices along an axis; "a+b" follows one another, and its parts are dropped together or not at all."""
        start, chosen = 0, []
        for part in axis.split("+"):
            indices = self._part(part, block)
            if indices is None:
                return None
            chosen.append(indices + start)
            start += self.architecture.sizes[part]
        return torch.cat(chosen)

    def _part(self, axis: str, block: int | None) -> torch.Tensor | None:
        if axis == "hidden" and self.hidden is not None:
            return torch.tensor(self.hidden)
        if axis == "ffn" and self.ffn is not None and block is not None:
            return torch.tensor(self.ffn[block])
        if axis in ("query", "kv") and block is not None:
            return self._heads(1 if axis == "kv" else self.architecture.heads_a_group, block)
        return None

    def _heads(self, heads: int, block: int) -> torch.Tensor | None:
        """Channels of the kept groups of `heads` heads each."""
        if self.groups is None and self.head_dim is None:
            return None
        groups = range(self.architecture.kv_heads) if self.groups is None else self.groups[block]
        each = torch.tensor(list(groups))[:, None] * heads + torch.arange(heads)
        within = rotary_pairs(self.architecture.head_dim, self.head_dim or self.architecture.head_dim)
        return (each.reshape(-1, 1) * self.architecture.head_dim + within).flatten()

    def rescaling(self, name: str, axes: Sequence[str]) -> tuple[float, float]:
        """Factor and offset of a parameter that depends on the hidden size: (offset + values) * factor - offset."""
        if axes[0] == "query" and self.head_dim is not None:
            # Scores are divided by the root of the head's width, which is another one now.
            return math.sqrt(self.head_dim / self.architecture.head_dim), 0.0
        if self.hidden is None:
            return 1.0, 0.0
        wider = math.sqrt(self.architecture.sizes["hidden"] / len(self.hidden))
        scaled, tied = self.architecture.embedding_scaled, self.architecture.tied
        if name == EMBEDDING:
            return (wider if scaled else 1.0), 0.0
        if name == FINAL_NORM and scaled and tied:
            # The head shares the rescaled embedding, which makes up for the norm, or has to be made up for.
            return (1 / wider, self.architecture.norm_offset) if self.renormalise else (1.0, 0.0)
        if self.renormalise:
            return 1.0, 0.0
        module = block_part(name).rpartition(".")[0]
        is_norm = tuple(axes) == ("hidden",) and module not in self.architecture.linear_axes
        return (wider, self.architecture.norm_offset) if is_norm else (1.0, 0.0)


def checked(architecture: Architecture, keep: Keep) -> Cut:
    """The plan as it applies to a model of this architecture.

    Raises:
        SliceError: indices out of order or out of range, a block without indices, or unequal counts.
    """
    blocks = _indices("blocks", keep.blocks, architecture.blocks)
    return Cut(
        architecture,
        range(architecture.blocks) if blocks is None else blocks,
        _per_block("FFN channels", keep.ffn, blocks, architecture, architecture.size("ffn")),
        _per_block("key/value groups", keep.groups, blocks, architecture, architecture.kv_heads),
        _indices("hidden channels", keep.hidden, architecture.size("hidden")),
        _head_dim(keep.head_dim, architecture.head_dim),
        keep.renormalise,
    )


def rotary_pairs(width: int, kept: int) -> torch.Tensor:
    """The channels of the first `kept` / 2 rotary pairs of a head, int64 [kept]: {0, …} and {width / 2, …}."""
    first = torch.arange(kept // 2)
    return torch.cat([first, first + width // 2]) if kept < width else torch.arange(width)


def _head_dim(kept: int | None, width: int) -> int | None:
    if kept is None or kept == width:
        return None
    if not 0 < kept < width or kept % 2:
        raise SliceError("head channels to keep", f"are {kept} of {width}", "keep an even number of them")
    return kept


def _indices(what: str, kept: Sequence[int] | None, count: int) -> Sequence[int] | None:
    """The kept indices, or None when they are all of them."""
    if kept is None:
        return None
    indices = [int(index) for index in kept]
    if not indices:
        raise SliceError(f"{what} to keep", "are none", "keep at least one")
    if indices != sorted(set(indices)):
        raise SliceError(f"{what} to keep", "are not in ascending order without repeats", "sort them")
    if indices[0] < 0 or indices[-1] >= count:
        wrong = indices[0] if indices[0] < 0 else indices[-1]
        raise SliceError(f"{what} to keep", f"name {wrong}, but there are {count}", f"use 0 to {count - 1}")
    return None if len(indices) == count else indices


def _per_block(
    what: str,
    kept: Mapping[int, Sequence[int]] | None,
    blocks: Sequence[int] | None,
    architecture: Architecture,
    count: int,
) -> dict[int, Sequence[int]] | None:
    if kept is None:
        return None
    chosen: dict[int, Sequence[int]] = {}
    for block in range(architecture.blocks) if blocks is None else blocks:
        if block not in kept:
            raise SliceError(f"{what} to keep", f"are not given for block {block}", "give them for every kept block")
        chosen[block] = _indices(f"{what} of block {block}", kept[block], count) or range(count)
    counts = {len(each) for each in chosen.values()}
    if len(counts) > 1:
        raise SliceError(
            f"{what} to keep", f"number {min(counts)} in one block and {max(counts)} in another",
            "keep equally many in every block: stock classes have one size for all",
        )  # fmt: skip
    return None if counts == {count} else chosen
