"""How far apart two texts are for a model: the distance of what its linears read while they pass through.

For the input of each group of linears, the root mean square of every channel over all tokens; the distance of two such
vectors is 1 - cosine. Rounding that is tuned on one text and used on another is off in the channels that differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featherweight.core.architecture import Reads
from featherweight.core.data import TokenSet
from featherweight.core.inputs import InputMoments
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import stream

Channels = Mapping[tuple[int, Reads], "torch.Tensor"]
"""Root mean square of each input channel, by block and group of linears."""


def channel_sizes(model: Model, tokens: TokenSet, run: Run) -> dict[tuple[int, Reads], torch.Tensor]:
    """Root mean square of every channel that a group of linears reads, float32 [channels]."""
    found: dict[tuple[int, Reads], torch.Tensor] = {}

    def see(index: int, block: Any, read: Reads, squares: torch.Tensor) -> None:
        found[index, read] = squares.sqrt()

    visitor = InputMoments(model.architecture.reads, see, diagonal=True)
    stream(model, tokens.ids, visitor, device=run.device)
    return found


def activation_distance(one: Channels, other: Channels) -> list[float]:
    """1 - cosine of the channels' sizes, the mean over the groups of each block."""
    by_block: dict[int, list[float]] = {}
    for key, sizes in one.items():
        cosine = torch.nn.functional.cosine_similarity(sizes.double(), other[key].double(), dim=0)
        by_block.setdefault(key[0], []).append(max(0.0, 1 - float(cosine)))
    return [sum(each) / len(each) for _, each in sorted(by_block.items())]
