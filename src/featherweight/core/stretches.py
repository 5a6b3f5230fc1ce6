"""The values of a stored tensor a stretch at a time: memory for one stretch, whatever the tensor's size.

Whoever reads a tensor from its first stretch to its last has read all its bytes, so its digest is then known without
reading it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from featherweight.core.checkpoint import Entry, digest_of_values
from featherweight.core.in_file import InFile, require_finite
from featherweight.core.lazy import torch

LENGTH = 1 << 17


def stretches(count: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) of each stretch of so many values."""
    for first in range(0, count, LENGTH):
        yield first, min(first + LENGTH, count)


def count_of(entry: Entry) -> int:
    """Number of values of a tensor."""
    return math.prod(entry.shape)


class Stretches:
    """Reads a plain tensor a stretch at a time; one that lies in no file is loaded whole.

    Args:
        entry: of a floating-point tensor.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._hash = None if "digest" in entry.__dict__ else digest_of_values(entry.format, entry.shape)
        self._read = 0
        if isinstance(entry.load, InFile):
            self._buffer = torch.empty(min(LENGTH, count_of(entry)), dtype=entry.load.torch_dtype)
            self._file = entry.load.open()
        else:
            self._whole = entry.load().contiguous().reshape(-1)

    def read(self, first: int, last: int) -> torch.Tensor:
        """Values from `first` up to `last`, in their own type; they hold until the next call.

        Raises:
            CheckpointError: a value is NaN or infinite, or the file has become shorter.
        """
        if isinstance(self.entry.load, InFile):
            values = self._buffer[: last - first]
            self.entry.load.read_into(values, first, self._file)
            if last == count_of(self.entry):
                self._file.close()
        else:
            values = self._whole[first:last]
        self._digest(values, first, last)
        return values

    def _digest(self, values: torch.Tensor, first: int, last: int) -> None:
        """Takes part in the digest while stretches come one after the other; the same as `Entry.digest` in the end."""
        if self._hash is None or first != self._read:
            self._hash = None
            return
        require_finite(values)
        self._hash.update(values.view(torch.uint8).numpy().data)
        self._read = last
        if last == count_of(self.entry):
            self.entry.__dict__["digest"] = self._hash.hexdigest()


@dataclass(frozen=True)
class Computed:
    """Computes a tensor when it is read: whole when called, or a stretch at a time.

    Attributes:
        shape, dtype: of the tensor.
        pieces: its values in order, in its own type, a stretch at a time.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[torch.Tensor]]

    def __call__(self) -> torch.Tensor:
        made, first = torch.empty(math.prod(self.shape), dtype=self.dtype), 0
        for piece in self.pieces():
            made[first : first + len(piece)] = piece
            first += len(piece)
        return made.reshape(self.shape)
