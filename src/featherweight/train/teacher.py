"""What a parent computes on some rows of tokens, kept for a student that learns from it.

Final hidden states give the exact logits back with one matrix product, so no logits are kept; beside them, the hidden
states after a few blocks. The parent is streamed once, block by block, and is not needed afterwards. Of a child with
fewer blocks, the parent's blocks that it kept are found by their weights, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.alignment import aligned
from featherweight.core.architecture import block_index, block_part, in_block
from featherweight.core.errors import RecipeError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import Visitor, head_weight, stream

_SAMPLED = 1024  # values of a tensor
_Sample = Mapping[str, tuple[tuple[int, ...], "torch.Tensor"]]


@dataclass(frozen=True)
class Teacher:
    """What a student is compared with.

    Attributes:
        head: float32 [vocabulary, the parent's hidden size].
        final: hidden states that the head reads, float32 [rows, tokens, the parent's hidden size].
        after: hidden states after the parent's counterpart of a block of the student, by that block.
    """

    head: torch.Tensor
    final: torch.Tensor
    after: Mapping[int, torch.Tensor]

    @classmethod
    def of(cls, parent: Model, ids: torch.Tensor, pairs: Mapping[int, int], run: Run) -> Teacher:
        """What a parent computes on rows of tokens.

        Args:
            parent: the model to learn from.
            ids: int64 [rows, tokens].
            pairs: the parent's block of each block of the student that is to be matched.
            run: gives the device and the progress.
        """
        seen = _Outputs(set(pairs.values()))
        with run.progress.track("reading the parent", parent.architecture.blocks) as advance:
            final = stream(parent, ids, seen, device=run.device, advance=advance)
        after = {ours: seen.outputs[theirs] for ours, theirs in pairs.items()}
        return cls(head_weight(parent).to(run.device), final, after)


class _Outputs(Visitor):
    """Keeps the outputs of some blocks."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.outputs: dict[int, torch.Tensor] = {}

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        if index in self.wanted:
            self.outputs[index] = outputs


def spread(blocks: int, count: int) -> list[int]:
    """`count` blocks, evenly spread over all, the last one among them; fewer where there are not so many."""
    count = min(count, blocks)
    return [(number + 1) * blocks // count - 1 for number in range(count)]


def counterparts(child: Model, parent: Model) -> list[int]:
    """The parent's block that each block of a child descends from, ascending.

    Raises:
        RecipeError: the child has more blocks than its parent, or nothing tells them apart.
    """
    ours, theirs = child.architecture.blocks, parent.architecture.blocks
    if ours == theirs:
        return list(range(ours))
    if ours > theirs:
        raise RecipeError(
            f"a model of {ours} blocks", f"has more than its parent, which has {theirs}",
            "name the parent's block of each one, or match no hidden states",
        )  # fmt: skip
    ourselves, others = (
        [_sample(model, block) for block in range(count)] for model, count in ((child, ours), (parent, theirs))
    )
    costs = [[_distance(one, other) for other in others] for one in ourselves]
    if any(min(row) == max(row) for row in costs):
        raise RecipeError(
            f"a model of {ours} blocks", f"has no weights by which to tell which of its parent's {theirs} it kept",
            "name the parent's block of each one, or match no hidden states",
        )  # fmt: skip
    return aligned(costs)


def ancestors(child: Model, parent: Model, blocks: Sequence[int]) -> Callable[[str], torch.Tensor | None]:
    """Gives the parent's tensor that one of the child's descends from, or None where their shapes differ.

    Args:
        child: a compressed model.
        parent: the model that it was made from.
        blocks: the parent's block of each of the child's.
    """

    def find(name: str) -> torch.Tensor | None:
        index = block_index(name)
        twin = name if index is None else in_block(name, blocks[index])
        entry = parent.entries.get(twin)
        return parent.tensor(twin) if entry is not None and entry.shape == child.entries[name].shape else None

    return find


def _sample(model: Model, block: int) -> dict[str, tuple[tuple[int, ...], torch.Tensor]]:
    """Shape and some of the values of every tensor of a block, by its name inside the block."""
    found = {}
    for name, entry in model.entries.items():
        if block_index(name) == block:
            flat = model.tensor(name).flatten()
            found[block_part(name)] = (entry.shape, flat[:: -(-len(flat) // _SAMPLED)].clone())
    return found


def _distance(one: _Sample, other: _Sample) -> float:
    """How far the tensors of two blocks are apart, as a share of the other's; those of other shapes do not count."""
    shared = [part for part in one if part in other and one[part][0] == other[part][0]]
    difference = sum(float((one[part][1] - other[part][1]).square().sum()) for part in shared)
    return difference / (sum(float(other[part][1].square().sum()) for part in shared) + 1e-30)
