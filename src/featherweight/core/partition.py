"""N numbers in d groups, and the isometric linear map from d numbers to N that the groups make (arXiv 2605.14841).

Number i belongs to group g(i), which has n members; the map P has P[i, g(i)] = 1 / sqrt(n) and is 0 elsewhere, so that
P^T P is the identity on the groups that have members. Who belongs where is decided by one of these back ends:

- stateless: g(i) is a hash of the seed and i, computed anew whenever it is needed; nothing is stored;
- materialized: drawn at random with a seed, module by module, and kept (4 bytes a number);
- permutation: a random permutation cut into groups whose sizes differ by at most one, and kept;
- signed_magnitude: numbers of one sign and of like magnitude, decided by the base weights themselves, and kept.

They give different groups for the same seed: whoever stores d numbers must store the back end's name and version too.
With the first two, a group can be empty (about d * exp(-N / d) are): its number changes nothing and stays untrained,
and P^T P is 0 there. Everything is computed in chunks, and no result depends on their size.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, Protocol, get_args

from featherweight.core.errors import AdapterError
from featherweight.core.fused_partition import fused_expand, fused_reduce, usable
from featherweight.core.lazy import torch
from featherweight.core.splitmix import remainder, splitmix

Backend = Literal["stateless", "materialized", "permutation", "signed_magnitude", "fastfood"]
VERSIONS: dict[str, int] = dict.fromkeys(get_args(Backend), 1)
"""The version of each back end: another one would give other groups for the same seed."""

CHUNK = 1 << 17
_SAMPLE = 1 << 16


class LinearMap(Protocol):
    """A fixed linear map from `groups` numbers to `total`, any stretch of which can be computed alone."""

    @property
    def groups(self) -> int:
        """How many numbers it takes."""

    @property
    def total(self) -> int:
        """How many numbers it gives."""

    @property
    def empty(self) -> int:
        """How many of the numbers that it takes change nothing."""

    @property
    def digest(self) -> str:
        """What tells it from another map."""

    def expand(self, theta: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Places `start` to `stop` of the result of [groups] numbers, in their dtype and on their device."""

    def reduce(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """What values [n] for the places from `start` on give under the transposed map, [groups]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """The map of a partition.

    Attributes:
        total: N.
        groups: d.
        seed: of the hash; unused where `index` is there.
        index: the group of every number, int32 [N]; None = hashed.
        isometric: False = every nonzero entry of the map is 1.
    """

    total: int
    groups: int
    seed: int = 0
    index: torch.Tensor | None = None
    isometric: bool = True

    def of(self, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """The groups of some places, int64 [stop - start]."""
        if self.index is None:
            return remainder(splitmix(self.seed, start, stop, device), self.groups)
        return self._index_on(torch.device(device))[start:stop].long()

    def _index_on(self, device: torch.device) -> torch.Tensor:
        assert self.index is not None
        moved: dict[torch.device, torch.Tensor] = self.__dict__.setdefault("_moved", {})
        if device not in moved:
            moved[device] = self.index.to(device)
        return moved[device]

    @cached_property
    def counts(self) -> torch.Tensor:
        """Members of every group, int64 [groups]."""
        counts = torch.zeros(self.groups, dtype=torch.int64)
        for first, last in chunks(0, self.total):
            counts += torch.bincount(self.of(first, last), minlength=self.groups)
        return counts

    @property
    def empty(self) -> int:
        """Groups without members."""
        return int((self.counts == 0).sum())

    @cached_property
    def scales(self) -> torch.Tensor:
        """The nonzero entry of every column, float64 [groups]; 1 for an empty group, where nothing reads it."""
        counts = self.counts.clamp(min=1).double()
        return counts.rsqrt() if self.isometric else torch.ones_like(counts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the sizes of all groups and the groups of the first places."""
        hashed = hashlib.sha256(self.counts.numpy().tobytes())
        hashed.update(self.of(0, min(self.total, _SAMPLE)).numpy().tobytes())
        return hashed.hexdigest()

    def expand(self, theta: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Places `start` to `stop` of the result of [groups] numbers, in their dtype and on their device."""
        scaled = theta * self.scales.to(theta)
        if self.index is None and usable(theta.device):
            fused = fused_expand(scaled, self.seed, start, stop - start)
            if fused is not None:
                return fused
        result = theta.new_empty(stop - start)
        for first, last in chunks(start, stop):
            torch.index_select(scaled, 0, self.of(first, last, theta.device), out=result[first - start : last - start])
        return result

    def reduce(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """What values [n] for the places from `start` on give under the transposed map, [groups]."""
        if self.index is None and usable(values.device):
            fused = fused_reduce(values, self.seed, start, self.groups)
            if fused is not None:
                return fused * self.scales.to(fused)
        sums = values.new_zeros(self.groups)
        for first, last in chunks(start, start + len(values)):
            sums.index_add_(0, self.of(first, last, values.device), values[first - start : last - start])
        return sums * self.scales.to(sums)


def chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """First and last of stretches that a cache holds."""
    for first in range(start, stop, CHUNK):
        yield first, min(first + CHUNK, stop)


def require_version(backend: str, version: int) -> None:
    """Refuses groups that this version cannot make again.

    Raises:
        AdapterError: an unknown back end, or another version of one.
    """
    if VERSIONS.get(backend) != version:
        known = ", ".join(f"{name} {number}" for name, number in VERSIONS.items())
        raise AdapterError(
            f"the back end {backend!r}, version {version!r}", f"is unknown here, where there are {known}",
            "use the version of featherweight that saved the adapter",
        )  # fmt: skip


def partition(
    backend: str,
    sizes: Sequence[int],
    groups: int,
    seed: int,
    weights: Sequence[torch.Tensor] = (),
    isometric: bool = True,
) -> Partition:
    """The partition that a back end makes.

    Args:
        backend: one of those above.
        sizes: entries of every module, in order; their sum is N.
        groups: d, at most N.
        seed: of whatever is random.
        weights: what the entries are in the base model, for `signed_magnitude`.
        isometric: False = the map's entries are 1.

    Raises:
        AdapterError: more groups than numbers.
    """
    total = sum(sizes)
    require_room(groups, total)
    index = None
    if backend == "materialized":
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randint(0, groups, (size,), generator=generator, dtype=torch.int32) for size in sizes]
        index = torch.cat(drawn)
    elif backend == "permutation":
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        index = torch.empty(total, dtype=torch.int32)
        index[order] = (torch.arange(total) % groups).int()
    elif backend == "signed_magnitude":
        index = _by_sign_and_magnitude(torch.cat([each.detach().flatten().float().cpu() for each in weights]), groups)
    return Partition(total, groups, seed, index, isometric)


def require_room(groups: int, total: int) -> None:
    """Refuses more trained numbers than there are weights to change.

    Raises:
        AdapterError: that.
    """
    if not 0 < groups <= total:
        raise AdapterError(
            f"dimension {groups}", f"is not from 1 to {total}, the number of weights that are adapted",
            f"use at most {total}, or more target modules",
        )  # fmt: skip


def _by_sign_and_magnitude(weights: torch.Tensor, groups: int) -> torch.Tensor:
    """Groups in proportion to the numbers of each sign, of equal counts by magnitude, int32 [N]."""
    negative = (weights < 0).nonzero().flatten()
    positive = (weights >= 0).nonzero().flatten()
    share = round(groups * len(negative) / len(weights))
    share = min(max(share, groups - len(positive), int(len(negative) > 0)), len(negative), groups)
    if groups > 1 and len(positive):
        share = min(share, groups - 1)
    index = torch.zeros(len(weights), dtype=torch.int32)
    if groups == 1:
        return index
    for places, first, count in ((negative, 0, share), (positive, share, groups - share)):
        if len(places):
            order = places[weights[places].abs().argsort(stable=True)]
            index[order] = (first + torch.arange(len(order)) * count // len(order)).int()
    return index
