"""Lays the adapted modules of a model out in the map of a GPart adapter, and refuses a base that is not the adapter's.

Modules follow one another in the order of the model, the entries of a weight in the order in which they are stored, and
a bias right after its weight. Within `scope=transformer_block` each block has its own map: d is split evenly, the
first (d mod blocks) blocks get one more, and a block's seed is the seed plus its ordinal. What lies in no block makes
one more, at the place of its first module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from featherweight.core.errors import AdapterError
from featherweight.core.fastfood import Fastfood
from featherweight.core.partition import LinearMap, partition
from featherweight.models.gpart_config import GPartConfig
from featherweight.models.gpart_layer import GPartLayer, Stretch

ELSEWHERE = ""


def lay_out(config: GPartConfig, adapter: str, layers: Mapping[str, GPartLayer]) -> None:
    """Gives every layer its stretch, and writes into the configuration what the adapter's base is like.

    Raises:
        AdapterError: more numbers than weights, or another base than the one that the configuration speaks of.
    """
    layout = [[name, *_weight(layer).shape, _bias(config, layer)] for name, layer in layers.items()]
    _require_layout(config, layout)
    _require_same(config, "base_digest", base_digest(list(layers.values())), _OTHER_WEIGHTS)
    maps = maps_of(config, layout, {name: _values(config, layer) for name, layer in layers.items()})
    for part in maps:
        _stretches(config, adapter, [layers[name] for name in part.modules], part)
    _require_same(config, "partition_digest", partition_digest(maps), _OTHER_GROUPS)
    config.layout = layout


@dataclass(frozen=True)
class ScopedMap:
    """A map of a model, or of one block of it.

    Attributes:
        map: from its part of the vector to its modules' entries.
        first: where its part of the vector begins.
        modules: by name, in order.
    """

    map: LinearMap
    first: int
    modules: tuple[str, ...]


def maps_of(
    config: GPartConfig, layout: Sequence[Sequence[Any]], values: Mapping[str, Sequence[torch.Tensor]] | None = None
) -> list[ScopedMap]:
    """The maps of an adapter.

    Args:
        config: its settings.
        layout: name, rows, columns and bias entries of every module.
        values: the modules' weights and biases, which only `signed_magnitude` reads.
    """
    sizes = {name: rows * columns + bias for name, rows, columns, bias in layout}
    scopes, found, first = _scopes(config, list(sizes)), [], 0
    for ordinal, names in enumerate(scopes.values()):
        groups, seed = share_of(config.dimension, len(scopes), ordinal), config.seed + ordinal
        linear_map: LinearMap
        if config.backend == "fastfood":
            linear_map = Fastfood(sum(sizes[name] for name in names), groups, seed)
        else:
            wanted = names if config.backend == "signed_magnitude" else []
            weights = [each for name in wanted for each in (values or {})[name]]
            linear_map = partition(
                config.backend, [sizes[name] for name in names], groups, seed, weights, config.isometric
            )
        found.append(ScopedMap(linear_map, first, tuple(names)))
        first += groups
    return found


def partition_digest(maps: Sequence[ScopedMap]) -> str:
    """What tells these maps from others."""
    return hashlib.sha256("".join(each.map.digest for each in maps).encode()).hexdigest()


def share_of(dimension: int, blocks: int, ordinal: int) -> int:
    """How many of d numbers a block gets."""
    return dimension // blocks + (ordinal < dimension % blocks)


def block_of(name: str) -> str:
    """What comes up to and with the first number in a module's name: "model.layers.3"; empty if there is none."""
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[: place + 1]) if place >= 0 else ELSEWHERE


def base_digest(layers: Sequence[GPartLayer]) -> str | None:
    """SHA-256 over the adapted weights, rounded to bfloat16: the same for a base that is loaded as fp32 or as bf16.

    None where weights are not there yet, or are rounded to something else than floating-point numbers.
    """
    hashed = hashlib.sha256()
    for layer in layers:
        weight = _weight(layer)
        if weight.is_meta or not weight.is_floating_point():
            return None
        for rows in weight.detach().split(max(1, (1 << 22) // max(weight.shape[1], 1))):
            hashed.update(rows.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return hashed.hexdigest()


def _scopes(config: GPartConfig, names: Sequence[str]) -> dict[str, list[str]]:
    scopes: dict[str, list[str]] = {}
    for name in names:
        scopes.setdefault(block_of(name) if config.scope == "transformer_block" else ELSEWHERE, []).append(name)
    return scopes


def _stretches(config: GPartConfig, adapter: str, layers: Sequence[GPartLayer], part: ScopedMap) -> None:
    start = 0
    for layer in layers:
        rows, columns = _weight(layer).shape
        stretch = Stretch(part.map, part.first, start, (rows, columns), _bias(config, layer))
        layer.gpart_stretches[adapter] = stretch
        start = stretch.stop + stretch.bias


def _values(config: GPartConfig, layer: GPartLayer) -> list[torch.Tensor]:
    return [layer.linear.weight] + ([layer.linear.bias] if _bias(config, layer) else [])


def _weight(layer: GPartLayer) -> Any:
    return layer.linear.weight


def _bias(config: GPartConfig, layer: GPartLayer) -> int:
    bias = getattr(layer.linear, "bias", None)
    return bias.numel() if config.include_bias and bias is not None else 0


_OTHER_WEIGHTS = (
    "its adapted weights have other values",
    "load the base that it was trained on, as fp32 or bf16 and with nothing merged into it",
)
_OTHER_GROUPS = (
    "the back end makes other groups here than where it was saved",
    "use the versions of torch and featherweight that saved it, and train with the stateless back end next time",
)


def _require_same(config: GPartConfig, name: str, found: str | None, sentence: tuple[str, str]) -> None:
    saved = getattr(config, name)
    if saved and found and saved != found:
        raise AdapterError("the base differs from the adapter's", *sentence)
    setattr(config, name, found or saved)


def _require_layout(config: GPartConfig, layout: list[list[Any]]) -> None:
    if config.layout is None or config.layout == layout:
        return
    here, there = ({name: sizes for name, *sizes in each} for each in (layout, config.layout))
    missing = sorted(set(here) ^ set(there))
    if missing:
        why = f"{missing[0]} is adapted {'there and not here' if missing[0] in there else 'here and not there'}"
    else:
        name = next((name for name in here if here[name] != there[name]), next(iter(here)))
        why = f"{name} is of {there[name][:2]} there and of {here[name][:2]} here, or comes in another order"
    raise AdapterError("the base differs from the adapter's", why, "load the base that it was trained on")
