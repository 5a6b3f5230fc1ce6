"""Task-vector files: one safetensors file with what a fine-tune changes, beside a base that it does not hold.

Two sorts. "added" holds D under the base's tensor names, as task-vector tools write it; a file that says nothing of
itself is taken for one. "replaced", which `write_task_vector` makes of a fine-tuned model, holds the fine-tune's own
values: tensors that did not change are left out, and of one in which few values changed only those are kept, as
`NAME:indices` and `NAME:values`. That is exact: nothing is projected, cut or rounded. Its metadata name the base.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from featherweight.core.checkpoint import Entry, file_entries, file_metadata
from featherweight.core.deltas import Delta, ModelDelta, Read
from featherweight.core.errors import MergeError
from featherweight.core.formats import FLOATS
from featherweight.core.in_file import require_finite
from featherweight.core.in_threads import in_threads
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.shards import DTYPE_BYTES, Loader, write_file
from featherweight.core.stretches import Stretches
from featherweight.core.user_file import digest_of

KIND, BASE = "task_vector", "base"
ADDED, REPLACED = "added", "replaced"
_INDICES, _VALUES = ":indices", ":values"


class VectorDelta(Delta):
    """What a task-vector file changes.

    Args:
        stands_for: kind, digest and stored bytes of what it was made of; None = of nothing but itself.
    """

    kind = "task vector"

    def __init__(self, name: str, path: Path, base: Model, stands_for: tuple[str, str, int] | None = None) -> None:
        super().__init__(name, path, path.stat().st_size)
        self._digest = "" if stands_for else digest_of(path)
        if stands_for:
            self.kind, self._digest, self.nbytes = stands_for
        self._entries = file_entries(path)
        metadata = file_metadata(path)
        self.replaced = metadata.get(KIND) == REPLACED
        _require_base(path, metadata, base)
        _require_fit(path, self._entries, base)

    @property
    def digest(self) -> str:
        return self._digest

    def changes(self, tensor: str) -> bool:
        return tensor in self._entries or tensor + _INDICES in self._entries

    def reader(self, tensor: str, base: Entry) -> Read:
        if tensor + _INDICES in self._entries:
            return _few(self._entries[tensor + _INDICES].load(), self._entries[tensor + _VALUES].load())
        source = Stretches(self._entries[tensor])

        def read(first: int, last: int, values: torch.Tensor, out: torch.Tensor) -> None:
            out.copy_(source.read(first, last))
            if self.replaced:
                out.sub_(values)

        return read


def _few(indices: torch.Tensor, replacing: torch.Tensor) -> Read:
    """Few values, in rising order of their places."""
    require_finite(replacing)

    def read(first: int, last: int, values: torch.Tensor, out: torch.Tensor) -> None:
        start, end = torch.searchsorted(indices, torch.tensor([first, last], dtype=indices.dtype)).tolist()
        places = indices[start:end].long() - first
        out.zero_()
        out[places] = replacing[start:end].double() - values[places]

    return read


def _require_base(path: Path, metadata: Mapping[str, str], base: Model) -> None:
    wanted = metadata.get(BASE)
    if wanted and wanted != base.fingerprint:
        raise MergeError(
            str(path), f"belongs to another base: the fingerprint {wanted[:12]}, and {base.folder} has "
            f"{base.fingerprint[:12]}", "give that base, or make the task vector again",
        )  # fmt: skip


def _require_fit(path: Path, entries: Mapping[str, Entry], base: Model) -> None:
    for name, entry in entries.items():
        tensor, _, part = name.partition(":")
        if tensor not in base.entries:
            raise MergeError(f"{path}, {name}", f"is no tensor of {base.folder}", "give the base that it belongs to")
        if part == "indices":
            continue
        shape = base.entries[tensor].shape
        if entry.format not in FLOATS:
            raise MergeError(f"{path}, {name}", f"is of the type {entry.format}", "write it in F32, BF16 or F16")
        if not part and entry.shape != shape:
            raise MergeError(
                f"{path}, {name}", f"has the shape {list(entry.shape)}, and that of the base is {list(shape)}",
                "give the base that it belongs to",
            )  # fmt: skip


def write_task_vector(path: Path, delta: ModelDelta, base: Model, threads: int = 1) -> None:
    """Writes what a fine-tuned model changes of a base, in as few bytes as are exact."""
    names = sorted(base.entries)
    made = in_threads(functools.partial(_loaders, delta, base), names, threads)
    loaders = {name: each for tensor in made for name, each in tensor.items()}
    write_file(path, loaders, threads=threads, metadata={KIND: REPLACED, BASE: base.fingerprint})


def _loaders(delta: ModelDelta, base: Model, tensor: str) -> dict[str, Loader]:
    """Nothing where nothing changed, the changed values where they are few, else the whole tensor."""
    entry = delta.model.entries[tensor]
    values = entry.load().reshape(-1)
    places = (values != base.entries[tensor].load().reshape(-1)).nonzero().reshape(-1)
    count = len(places)
    kind = "I32" if len(values) < 2**31 else "I64"
    if count * (DTYPE_BYTES[kind] + DTYPE_BYTES[entry.format]) >= entry.nbytes:
        return {tensor: Loader(entry.format, entry.shape, entry.load)}
    if not count:
        return {}
    indices, few = places.to(torch.int32 if kind == "I32" else torch.int64), values[places]
    return {
        tensor + _INDICES: Loader(kind, (count,), lambda: indices),
        tensor + _VALUES: Loader(entry.format, (count,), lambda: few),
    }
