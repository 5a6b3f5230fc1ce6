"""safetensors files of at most 2 GB each: written tensor by tensor, and measured without being written.

The bytes are those that safetensors' own `save_file` writes. Places of all tensors are known before the first is
loaded, so each is loaded when it is written and forgotten afterwards, in several threads where that is wanted; one that
is computed goes to the file some values at a time.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from featherweight.core.in_threads import in_threads
from featherweight.core.lazy import torch

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2 * 10**9
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# In a file, safetensors puts tensors of these types one after the other, and by name within a type.
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")


def split(sizes: Mapping[str, int]) -> list[list[str]]:
    """Names of the tensors of each file, in order."""
    files: list[list[str]] = [[]]
    filled = 0
    for name, nbytes in sizes.items():
        if filled and filled + nbytes > SHARD_BYTES:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += nbytes
    return files


class Loader(NamedTuple):
    """A tensor to be written: its safetensors type, its shape, and how to load it.

    What loads it may have a method `pieces` that gives the values in order, some at a time.
    """

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        return DTYPE_BYTES[self.dtype] * math.prod(self.shape)

    def pieces(self) -> Iterator[torch.Tensor]:
        """The values, whole or some at a time; each piece holds until the next one."""
        given = getattr(self.load, "pieces", None)
        return iter([self.load()]) if given is None else given()


def write_shards(
    folder: Path,
    tensors: Mapping[str, Loader],
    progress: Callable[[int], None] | None = None,
    threads: int = 1,
) -> None:
    """Writes tensors, and the index if they take several files.

    Args:
        folder: an existing one.
        tensors: by name.
        progress: called with the bytes of every tensor that is written.
        threads: that load and write; each holds one tensor.

    Raises:
        OSError: the disk is full, or a tensor is not what it was said to be.
    """
    shards = split({name: each.nbytes for name, each in tensors.items()})
    files = [SINGLE] if len(shards) == 1 else [
        f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
    ]  # fmt: skip
    for file, shard in zip(files, shards, strict=True):
        write_file(folder / file, {name: tensors[name] for name in shard}, progress, threads)
    if len(shards) > 1:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = {"total_size": sum(each.nbytes for each in tensors.values())}
        (folder / INDEX).write_text(json.dumps({"metadata": total, "weight_map": where}, indent=1), encoding="utf-8")


def write_file(
    path: Path,
    tensors: Mapping[str, Loader],
    progress: Callable[[int], None] | None = None,
    threads: int = 1,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one safetensors file; arguments as for `write_shards`."""
    facts = {name: (each.dtype, each.shape) for name, each in tensors.items()}
    head, places = _head(facts, metadata or {"format": "pt"})
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _write_at(descriptor, head, 0)

        def write(name: str) -> None:
            first, last = places[name]
            written = 0
            for piece in tensors[name].pieces():
                _write_at(descriptor, _bytes_of(piece), len(head) + first + written)
                written += piece.nbytes
            if written != last - first:
                raise OSError(f"{name} is of {written} bytes and not of {last - first}")
            if progress:
                progress(written)

        order = sorted(places, key=lambda name: places[name])
        if threads > 1:
            in_threads(write, order, threads)
        else:
            for name in order:
                write(name)
    finally:
        os.close(descriptor)
    path.chmod(0o644)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(descriptor, left, offset)
        left, offset = left[done:], offset + done


def shards_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Exact bytes of the files that `write_shards` would write, for tensors given by type and shape."""
    sizes = {name: DTYPE_BYTES[dtype] * math.prod(shape) for name, (dtype, shape) in tensors.items()}
    return sum(_file_bytes({name: tensors[name] for name in names}) for names in split(sizes))


def _file_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    head, places = _head(tensors, {"format": "pt"})
    return len(head) + max((last for _, last in places.values()), default=0)


def _head(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """What a file starts with, and where each tensor lies behind that: its first byte and the one after its last."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (_ORDER.index(tensors[name][0]), name)):
        dtype, shape = tensors[name]
        start, end = end, end + DTYPE_BYTES[dtype] * math.prod(shape)
        places[name] = (start, end)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places
