"""What a GPart folder says of itself: its vector, the groups that its seed makes, and where its energy is.

No base is needed, but for groups that the base's weights decide (`signed_magnitude`): those are not made again here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.adapter_folder import weights_file
from featherweight.core.checkpoint import file_entries
from featherweight.core.errors import AdapterError
from featherweight.core.lazy import torch
from featherweight.core.partition import Partition


@dataclass(frozen=True)
class Groups:
    """The groups of weights that share a number, made again.

    Attributes:
        smallest, largest: members; None where every number changes every weight (fastfood).
        empty: without members; their numbers change nothing.
        same: whether they are those of the saved adapter, by its digest; None where it has none.
    """

    smallest: int | None
    largest: int | None
    empty: int
    same: bool | None


@dataclass(frozen=True)
class Vector:
    """The one vector of a GPart adapter.

    Attributes:
        dimension: d, how many numbers it has.
        settings: seed, back end and the rest of what decides the map, as the folder has them.
        weights: numbers that it changes, by module.
        groups: None where the base would be needed to make them.
        shares: of the whole change's squared norm, by module; empty where the base would be needed.
        energy: squared norm of the whole change; None where the base would be needed.
        bytes: of the file of tensors.
    """

    dimension: int
    settings: Mapping[str, Any]
    weights: Mapping[str, int]
    groups: Groups | None
    shares: Mapping[str, float]
    energy: float | None
    bytes: int


_SETTINGS = (
    "seed", "backend", "backend_version", "scope", "isometric", "include_bias", "partition_digest", "base_digest",
)  # fmt: skip


def inspect_vector(folder: Path) -> Vector:
    """Looks at a GPart adapter.

    Raises:
        AdapterError: it cannot be read, or this version cannot make its groups.
    """
    import peft

    from featherweight.models import gpart  # noqa: F401  (PEFT knows the method from here on)

    file = weights_file(folder)
    theta = _theta(folder, file)
    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    settings = {name: getattr(config, name) for name in _SETTINGS}
    weights = {name: rows * columns + bias for name, rows, columns, bias in config.layout or ()}
    if len(theta) != config.dimension:
        why = f"holds {len(theta)} numbers, and its configuration says {config.dimension}"
        raise AdapterError(str(file), why, "save the adapter again")
    if config.backend == "signed_magnitude" or not weights:
        return Vector(len(theta), settings, weights, None, {}, None, file.stat().st_size)
    groups, squares = _made(config, theta, weights)
    energy = sum(squares.values())
    shares = {name: each / energy if energy else 0.0 for name, each in squares.items()}
    return Vector(len(theta), settings, weights, groups, shares, energy, file.stat().st_size)


def _theta(folder: Path, file: Path) -> torch.Tensor:
    found = [entry for name, entry in file_entries(file).items() if name.endswith("gpart_theta")]
    if not found:
        raise AdapterError(str(folder), "holds no GPart vector", "save the adapter again")
    theta: torch.Tensor = found[0].load().float()
    if not bool(torch.isfinite(theta).all()):
        raise AdapterError(str(file), "holds NaN or infinite values", "train it again, or take a checkpoint")
    return theta


def _made(config: Any, theta: torch.Tensor, weights: Mapping[str, int]) -> tuple[Groups, dict[str, float]]:
    """The groups, and the squared norm of every module's change."""
    from featherweight.models.gpart_layout import maps_of, partition_digest

    maps = maps_of(config, config.layout)
    squares = {}
    for part in maps:
        own, start = theta[part.first : part.first + part.map.groups], 0
        for name in part.modules:
            squares[name] = float(part.map.expand(own, start, start + weights[name]).square().sum(dtype=torch.float64))
            start += weights[name]
    counts = [part.map.counts for part in maps if isinstance(part.map, Partition)]
    members = torch.cat(counts) if counts else None
    same = partition_digest(maps) == config.partition_digest if config.partition_digest else None
    smallest, largest = (None, None) if members is None else (int(members.min()), int(members.max()))
    return Groups(smallest, largest, sum(part.map.empty for part in maps), same), squares
