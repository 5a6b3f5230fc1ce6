"""Skeletons: smaller versions of one language model at equal bytes, each cut in another way, before anything recovers.

- "depth": whole blocks go (technique `depth`);
- "width": feed-forward channels go, the kept ones take over (technique `width`);
- "low-rank": every linear of the blocks becomes a product of two thin ones.

The coarsest, depth, is cut first, and the others then get as many parameters as it has, at most, to within a fraction
of a percent. Embedding, head and hidden size stay what they are, so one head reads them all. Of a low-rank skeleton
there is only the module: no stock class holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.architecture import Reads
from featherweight.core.errors import RecipeError, nearest
from featherweight.core.inputs import InputMoments, weight_of
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.stream import stream
from featherweight.core.technique import build
from featherweight.train.teacher import counterparts

NAMES = ("depth", "width", "low-rank")
_FINE = 1 / 512  # step of a share


@dataclass(frozen=True)
class Skeleton:
    """A smaller version of a parent.

    Attributes:
        how: what was cut, for people.
        parameters: of all tensors; twice as many bytes in bf16.
        blocks: the parent's block of each of its blocks.
        model: without the factors of a low-rank one.
        factors: U and V of linears by name; empty but for a low-rank one.
    """

    name: str
    how: str
    parameters: int
    blocks: Sequence[int]
    model: Model
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    def module(self) -> Any:
        """A fresh transformers module in float32, whose weights are its own."""
        from featherweight.models.low_rank_linear import LowRankLinear

        module = self.model.module()
        for name, (up, down) in self.factors.items():
            place = name.removesuffix(".weight")
            bias = module.get_submodule(place).bias
            thin = LowRankLinear(up.clone(), down.clone(), None if bias is None else bias.detach().clone())
            module.set_submodule(place, thin)
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
        return module


def skeletons(parent: Model, names: Sequence[str], share: float, run: Run) -> dict[str, Skeleton]:
    """Skeletons of about the same number of parameters.

    Args:
        parent: what is cut.
        names: of `NAMES`.
        share: of the parent's parameters that stay at most.
        run: gives calibration tokens.

    Raises:
        RecipeError: no such skeleton, or a share that one of them cannot be cut to.
    """
    limit, found = int(share * parent.parameters), {}
    for name in sorted(check_names(names), key=NAMES.index):
        found[name] = _MAKERS[name](parent, limit, run)
        if name == "depth":
            limit = found[name].parameters
    return {name: found[name] for name in names}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, which are those of skeletons.

    Raises:
        RecipeError: one is not.
    """
    for name in names:
        if name not in NAMES:
            hint = nearest(name, NAMES) or f"use one of {', '.join(NAMES)}"
            raise RecipeError(f"skeleton {name!r}", "is unknown", hint)
    return tuple(names)


def _depth(parent: Model, limit: int, run: Run) -> Skeleton:
    blocks = parent.architecture.blocks

    def parameters(kept: int) -> int:
        return slice_model(parent, Keep(blocks=range(kept))).parameters

    kept = _largest(lambda count: parameters(count) <= limit, blocks - 1)
    if not kept:
        raise _too_small("depth", parent, parameters(1))
    drop = blocks - kept
    child = build("depth", {"drop": drop}).apply(parent, run)
    return Skeleton(
        "depth", f"{drop} of {blocks} blocks fewer", child.parameters, counterparts(child, parent), child, {}
    )


def _width(parent: Model, limit: int, run: Run) -> Skeleton:
    channels = parent.architecture.size("ffn")

    def parameters(kept: int) -> int:
        ffn = {block: range(kept) for block in range(parent.architecture.blocks)}
        return slice_model(parent, Keep(ffn=ffn)).parameters

    kept = _largest(lambda count: parameters(count) <= limit, channels - 1)
    if not kept:
        raise _too_small("width", parent, parameters(1))
    child = build("width", {"ffn": kept / channels, "multiple": 1}).apply(parent, run)
    blocks = range(parent.architecture.blocks)
    return Skeleton("width", f"{kept:,} of {channels:,} channels", child.parameters, blocks, child, {})


def _low_rank(parent: Model, limit: int, run: Run) -> Skeleton:
    from featherweight.models.low_rank_linear import factors, rank_of

    shapes = {name: _sides(parent, name) for name in parent.architecture.linears()}
    outside = parent.parameters - sum(rows * columns for rows, columns in shapes.values())

    def parameters(share: float) -> int:
        return outside + sum(rank_of(*shape, share) * sum(shape) for shape in shapes.values())

    steps = _largest(lambda step: parameters(step * _FINE) <= limit, round(1 / _FINE))
    if not steps:
        raise _too_small("low-rank", parent, parameters(_FINE))
    share, made = steps * _FINE, {}

    def act(index: int, block: Any, read: Reads, moment: torch.Tensor) -> None:
        for module in read.linears:
            name = parent.architecture.linear(index, module)
            made[name] = factors(weight_of(block, module), moment, rank_of(*shapes[name], share))

    with run.progress.track("factoring linears", parent.architecture.blocks) as advance:
        stream(parent, run.tokens("low-rank").ids, InputMoments(parent.architecture.reads, act), advance=advance)
    blocks = range(parent.architecture.blocks)
    return Skeleton("low-rank", f"{share:.1%} of the linears' numbers", parameters(share), blocks, parent, made)


def _sides(model: Model, name: str) -> tuple[int, int]:
    """Rows and columns of a linear."""
    rows, columns = model.entries[name].shape
    return rows, columns


_MAKERS = {"depth": _depth, "width": _width, "low-rank": _low_rank}


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest count from 1 to `most` that fits, where smaller ones do if it does; 0 = none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _too_small(name: str, parent: Model, least: int) -> RecipeError:
    return RecipeError(
        f"skeleton {name!r}", "cannot be cut to so few parameters",
        f"leave at least {least / parent.parameters:.0%}, or leave this skeleton out",
    )  # fmt: skip
