"""safetensors files of at most 2 GB each: written one after the other, and measured without being written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

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


def write_shards(
    folder: Path,
    tensors: Mapping[str, tuple[int, Callable[[], torch.Tensor]]],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes tensors, each given as its bytes and how to load it, and the index if there are several files."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shards = split({name: nbytes for name, (nbytes, _) in tensors.items()})
    files = [SINGLE] if len(shards) == 1 else [
        f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))
    ]  # fmt: skip
    for file, shard in zip(files, shards, strict=True):
        try:
            save_file({name: tensors[name][1]() for name in shard}, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        (folder / file).chmod(0o644)  # safetensors makes files that only their owner may read
        if progress:
            progress(sum(tensors[name][0] for name in shard))
    if len(shards) > 1:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        total = {"total_size": sum(nbytes for nbytes, _ in tensors.values())}
        (folder / INDEX).write_text(json.dumps({"metadata": total, "weight_map": where}, indent=1), encoding="utf-8")


def shards_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Exact bytes of the files that `write_shards` would write, for tensors given by type and shape."""
    sizes = {name: DTYPE_BYTES[dtype] * math.prod(shape) for name, (dtype, shape) in tensors.items()}
    return sum(_file_bytes({name: tensors[name] for name in names}) for names in split(sizes))


def _file_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(tensors, key=lambda name: (_ORDER.index(tensors[name][0]), name)):
        dtype, shape = tensors[name]
        start, end = end, end + DTYPE_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-text // 8) * 8 + end
