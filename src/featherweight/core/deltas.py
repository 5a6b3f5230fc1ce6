"""What a fine-tune changed: D = theta - theta_0, read a stretch at a time beside the base, exact in float64.

Three things are deltas: a fine-tuned model, a LoRA adapter (scale * B A, never made whole) and a task-vector file
(`core.task_vector`). The difference of two float32 or bfloat16 numbers is a float64 number unless one is 2**29 times
the other, so nothing is rounded before the result is.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from featherweight.core.adapter_facts import base_weight
from featherweight.core.adapter_folder import CONFIG, WEIGHTS, Adapter, LoraFactors, adapter_bytes
from featherweight.core.checkpoint import Entry
from featherweight.core.errors import CheckpointError, MergeError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.stretches import LENGTH, Stretches, count_of, stretches
from featherweight.core.user_file import digest_of

Read = Callable[[int, int, "torch.Tensor", "torch.Tensor"], None]
"""Writes a delta's values from `first` up to `last` into a float64 tensor, given the base's values there, float64."""


class Delta(ABC):
    """A change of a base model.

    Attributes:
        name: what a person calls it: a folder's or file's name.
        path: where it is.
        kind: "model", "adapter" or "task vector".
        nbytes: stored bytes.
    """

    kind: str

    def __init__(self, name: str, path: Path, nbytes: int) -> None:
        self.name, self.path, self.nbytes = name, path, nbytes

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 that identifies it, wherever it lies."""

    @abstractmethod
    def changes(self, tensor: str) -> bool:
        """Whether it may change a tensor of the base; False = it surely does not."""

    @abstractmethod
    def reader(self, tensor: str, base: Entry) -> Read:
        """Reads one tensor's delta, from its first stretch to its last."""


class ModelDelta(Delta):
    """What a fine-tuned model differs by.

    Args:
        model: of the base's names and shapes.
        base: theta_0; where it is the model itself, nothing is read.
    """

    kind = "model"

    def __init__(self, name: str, path: Path, model: Model, base: Model | None = None) -> None:
        super().__init__(name, path, model.nbytes)
        self.model, self._same = model, model is base

    @property
    def digest(self) -> str:
        return self.model.fingerprint

    def changes(self, tensor: str) -> bool:
        return not self._same

    def reader(self, tensor: str, base: Entry) -> Read:
        source = Stretches(self.model.entries[tensor])

        def read(first: int, last: int, values: torch.Tensor, out: torch.Tensor) -> None:
            out.copy_(source.read(first, last)).sub_(values)

        return read


class AdapterDelta(Delta):
    """What a LoRA adapter adds.

    Args:
        adapter: one that does nothing but add scale * B A to weights of the base.
    """

    kind = "adapter"

    def __init__(self, name: str, path: Path, adapter: Adapter, base: Model) -> None:
        super().__init__(name, path, adapter_bytes(adapter))
        self._digest = adapter_digest(path)
        self._factors = {
            base_weight(module, base): (factors, module in adapter.embeddings)
            for module, factors in adapter.factors.items()
        }

    @property
    def digest(self) -> str:
        return self._digest

    def changes(self, tensor: str) -> bool:
        return tensor in self._factors

    def reader(self, tensor: str, base: Entry) -> Read:
        left, right = _sides(*self._factors[tensor])
        columns = right.shape[1]

        def read(first: int, last: int, values: torch.Tensor, out: torch.Tensor) -> None:
            top, bottom = first // columns, -(-last // columns)
            rows = (left[top:bottom] @ right).reshape(-1)
            out.copy_(rows[first - top * columns : last - top * columns])

        return read


def _sides(factors: LoraFactors, embedding: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 matrices whose product is the change of the weight as it is stored."""
    a, b = factors.a.double(), factors.b.double() * factors.scale
    return (a.T.contiguous(), b.T.contiguous()) if embedding else (b, a)


def adapter_digest(folder: Path) -> str:
    """SHA-256 that identifies an adapter: of its tensors and its configuration."""
    return hashlib.sha256("".join(digest_of(folder / name) for name in (WEIGHTS, CONFIG)).encode()).hexdigest()


def walk(name: str, base: Model, deltas: Sequence[Delta]) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """One tensor of the base and of all deltas, a stretch at a time.

    Yields:
        which values; the base's, float64 [values]; the deltas, float64 [deltas, values]. Both hold until the next one.

    Raises:
        MergeError: a value is NaN or infinite, with the name of its model and tensor.
    """
    entry = base.entries[name]
    count, source = count_of(entry), Stretches(entry)
    readers = [_reader(delta, name, entry) for delta in deltas]
    length = min(LENGTH, count)
    values = torch.empty(length, dtype=torch.float64)
    changes = torch.empty(len(deltas), length, dtype=torch.float64)
    changes[[row for row, read in enumerate(readers) if read is None]] = 0
    for first, last in stretches(count):
        own, pieces = values[: last - first], changes[:, : last - first]
        with _named(str(base.folder), name):
            own.copy_(source.read(first, last))
        for row, read in enumerate(readers):
            if read is not None:
                with _named(str(deltas[row].path), name):
                    read(first, last, own, pieces[row])
        yield slice(first, last), own, pieces


def _reader(delta: Delta, name: str, entry: Entry) -> Read | None:
    with _named(str(delta.path), name):
        return delta.reader(name, entry) if delta.changes(name) else None


@contextmanager
def _named(what: str, tensor: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise MergeError(f"{what}, {tensor}", error.why, error.mend) from None
