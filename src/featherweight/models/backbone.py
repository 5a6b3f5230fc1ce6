"""Backbones to compare: equal stacks of equal blocks that differ in how positions are mixed, and in nothing else.

    block: h <- LayerNorm(h + dropout(W gelu(mix(h)) + c))            [rows, length, width] -> [rows, length, width]

`mix` is a diagonal state space, a convolution or attention, causal or not. Each has an inner size; `matched` chooses
it so that the whole stack has about as many parameters as asked for, since a larger backbone would win for another
reason. "identity" has no block at all: what an objective does without a backbone.

Post-norm and LayerNorm as in arXiv 2605.12241, whose transformer has feed-forward layers that are left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from featherweight.core.errors import RecipeError, nearest
from featherweight.models.state_space import StateSpace
from featherweight.models.time_attention import TimeAttention
from featherweight.models.time_convolution import TimeConvolution

_HEADS = 2


@dataclass(frozen=True)
class Mixer:
    """A way to mix positions.

    Attributes:
        make: from width, inner size and causality to a module.
        unit: the inner size is a multiple of it.
    """

    make: Callable[[int, int, bool], nn.Module]
    unit: int


MIXERS: Mapping[str, Mixer] = {
    "state-space": Mixer(StateSpace, 1),
    "convolution": Mixer(lambda width, inner, causal: TimeConvolution(width, inner, causal=causal), 1),
    "attention": Mixer(lambda width, inner, causal: TimeAttention(width, inner, _HEADS, causal), 2 * _HEADS),
}
IDENTITY = "identity"
BACKBONES = (*MIXERS, IDENTITY)


class Block(nn.Module):
    """Mixes positions, then channels, and normalises the sum with what came in."""

    def __init__(self, mixer: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.mixer, self.norm = mixer, nn.LayerNorm(width)
        self.channels, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        update = self.channels(nn.functional.gelu(self.mixer(hidden)))
        result: torch.Tensor = self.norm(hidden + self.dropout(update))
        return result


class Backbone(nn.Module):
    """A stack of blocks.

    Args:
        name: one of `BACKBONES`.
        width: channels.
        layers: blocks.
        inner: size of the mixer; see `matched`.
        causal: whether a position sees itself and the past only.
        dropout: of what a block adds.

    Raises:
        RecipeError: no such backbone.
    """

    def __init__(
        self, name: str, width: int, layers: int, inner: int, causal: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_name(name)
        self.width, self.causal = width, causal
        layers = 0 if name == IDENTITY else layers
        self.blocks = nn.ModuleList(
            Block(MIXERS[name].make(width, inner, causal), width, dropout) for _ in range(layers)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same shape."""
        return self.states(hidden)[-1]

    def states(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """What goes in, and what comes out of every block."""
        found = [hidden]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found


def check_name(name: str) -> None:
    """Refuses a backbone that there is not."""
    if name not in BACKBONES:
        hint = nearest(name, BACKBONES) or f"use one of {', '.join(BACKBONES)}"
        raise RecipeError(f"backbone {name!r}", "is unknown", hint)


def parameters_of(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(each.numel() for each in module.parameters())


def matched(name: str, width: int, layers: int, causal: bool, parameters: int) -> int:
    """The inner size with which a backbone comes nearest to a number of parameters.

    Raises:
        RecipeError: even the smallest is more than half as large again.
    """
    check_name(name)
    if name == IDENTITY:
        return 0
    unit = MIXERS[name].unit

    def count(units: int) -> int:
        with torch.device("meta"):
            return parameters_of(Backbone(name, width, layers, units * unit, causal))

    least, step = count(1), count(2) - count(1)
    units = max(1, round(1 + (parameters - least) / step))
    if count(units) > 1.5 * parameters:
        raise RecipeError(
            f"a {name} backbone of {parameters} parameters", f"has {count(units)} at least at width {width}",
            "allow more parameters, or make it narrower",
        )  # fmt: skip
    return units * unit
