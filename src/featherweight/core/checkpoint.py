"""A model folder's tensors: opened lazily, checked, hashed exactly, saved whole or not at all.

A checkpoint is safetensors files plus `config.json` and the tokenizer's files. Rounded tensors are kept as the parts
that their format defines, listed in `featherweight.json`; plain floating-point folders are ordinary Hugging Face ones.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.errors import CheckpointError
from featherweight.core.formats import FLOATS, Packed, get
from featherweight.core.in_file import InFile, dtype_name, require_finite
from featherweight.core.lazy import torch
from featherweight.core.shards import DTYPE_BYTES, INDEX, SINGLE, Loader, write_shards
from featherweight.core.user_file import read_json_object

Stored = Any  # torch.Tensor | Packed; torch is not imported here

PARTS = "featherweight.json"


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, read only when asked for.

    Attributes:
        format: "F32", "BF16", ... or the name of a rounded format.
        shape: of the values, whatever the format.
        nbytes: stored bytes.
    """

    format: str
    shape: tuple[int, ...]
    nbytes: int
    load: Callable[[], Stored] = field(repr=False)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of format, shape and bytes.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        stored = self.load()
        hashed = digest_of_values(self.format, self.shape)
        parts = stored.parts if isinstance(stored, Packed) else {"": stored}
        for name in sorted(parts):
            part = parts[name].contiguous()
            require_finite(part)
            hashed.update(name.encode())
            hashed.update(part.reshape(-1).view(torch.uint8).numpy().data)
        return hashed.hexdigest()


def digest_of_values(format_name: str, shape: tuple[int, ...]) -> hashlib._Hash:
    """What an entry's digest starts with; of a plain tensor only its bytes follow."""
    return hashlib.sha256(f"{format_name}{list(shape)}".encode())


def entry_of(stored: Stored) -> Entry:
    """An entry for a tensor in memory; one that was rounded to plain floating point is a plain tensor."""
    if isinstance(stored, Packed) and stored.format in FLOATS:
        stored = stored.parts["values"]
    if isinstance(stored, Packed):
        return Entry(stored.format, stored.shape, stored.nbytes, lambda: stored)
    return Entry(dtype_name(stored.dtype), tuple(stored.shape), stored.numel() * stored.element_size(), lambda: stored)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder."""
    if not folder.exists():
        raise CheckpointError(str(folder), "does not exist", "give a model folder, a .gguf file or smollm2-135m")
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(str(folder), "is not a model: it has no config.json", "give a Hugging Face model folder")
    return read_json_object(path, CheckpointError, "download the model again")


def read_entries(folder: Path, allow_pickle: bool = False) -> dict[str, Entry]:
    """The tensors of a model folder, by name; nothing is read but the headers.

    Raises:
        CheckpointError: no weights, a truncated or unreadable file, a missing shard, or pickled weights only.
    """
    files = _weight_files(folder)
    if not files:
        return _pickled(folder, allow_pickle)
    raw: dict[str, Entry] = {}
    for path in files:
        raw.update(file_entries(path))
    described = folder / PARTS
    if not described.is_file():
        return raw
    parts = json.loads(described.read_text(encoding="utf-8")).get("packed", {})
    return _join_parts(raw, parts)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(str(folder), f"lacks the shard {missing[0]}", "download the model again")
        return [folder / name for name in names]
    return [folder / SINGLE] if (folder / SINGLE).is_file() else []


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, checked against the file's length, and where its tensors start."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        text = file.read(length) if length <= size else b""
    try:
        header: dict[str, Any] = json.loads(text)
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise CheckpointError(
            str(path), "is not a safetensors file, or its header is cut off", "download it again"
        ) from None
    if 8 + length + end != size:
        raise CheckpointError(str(path), f"is truncated: {size} bytes of {8 + length + end}", "download the file again")
    return header, 8 + length


def file_entries(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file, by name; nothing is read but the header."""
    header, start = _header(path)
    entries = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        first, last = facts["data_offsets"]
        shape = tuple(facts["shape"])
        entries[name] = Entry(facts["dtype"], shape, last - first, InFile(path, start + first, facts["dtype"], shape))
    return entries


def file_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, beside its tensors."""
    return dict(_header(path)[0].get("__metadata__") or {})


def _join_parts(raw: dict[str, Entry], packed: Mapping[str, Any]) -> dict[str, Entry]:
    """Entries in which the parts of each rounded tensor are one tensor again."""
    entries = dict(raw)
    for name, facts in packed.items():
        parts = {part: entries.pop(f"{name}:{part}") for part in facts["parts"]}
        shape = (facts["shape"][0], facts["shape"][1])
        load = functools.partial(load_parts, facts["format"], shape, parts)
        entries[name] = Entry(facts["format"], shape, sum(part.nbytes for part in parts.values()), load)
    return entries


def load_parts(kind: str, shape: tuple[int, int], parts: Mapping[str, Entry]) -> Packed:
    """A rounded tensor from the entries of its parts."""
    return Packed(kind, shape, {part: entry.load() for part, entry in parts.items()})


def _pickled(folder: Path, allowed: bool) -> dict[str, Entry]:
    found = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if not found:
        raise CheckpointError(str(folder), "is not a model: it has no safetensors file", "give a model folder")
    if not allowed:
        raise CheckpointError(
            str(folder),
            f"holds its weights only as a pickle ({found[0].name}), which can run code when it is loaded",
            "convert it to safetensors, or pass --trust-remote-code if you trust its author",
        )
    state: dict[str, Any] = {}
    for path in found:
        state.update(_unpickled(path))
    return {name: entry_of(tensor) for name, tensor in state.items()}


def _unpickled(path: Path) -> dict[str, Any]:
    """A state dictionary; torch builds nothing but tensors and containers, whatever the pickle asks for."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            str(path), f"cannot be read as tensors alone ({reason})", "convert it to safetensors"
        ) from None


def write_tensors(
    folder: Path, entries: Mapping[str, Entry], progress: Callable[[int], None] | None = None, threads: int = 1
) -> None:
    """Writes entries as safetensors, in shards of at most 2 GB, one tensor after the other.

    Rounded tensors are written as their parts and described in `featherweight.json`.
    """
    flat, packed = _flatten(entries)
    write_shards(folder, flat, progress, threads)
    if packed:
        (folder / PARTS).write_text(json.dumps({"packed": packed}, indent=1), encoding="utf-8")


def _flatten(entries: Mapping[str, Entry]) -> tuple[dict[str, Loader], dict[str, Any]]:
    flat: dict[str, Loader] = {}
    packed: dict[str, Any] = {}
    for name, entry in entries.items():
        if entry.format in DTYPE_BYTES:
            flat[name] = Loader(entry.format, entry.shape, entry.load)
            continue
        stored = entry.load()
        packed[name] = {"format": entry.format, "shape": list(entry.shape), "parts": sorted(stored.parts)}
        for part, tensor in stored.parts.items():
            flat[f"{name}:{part}"] = Loader(
                dtype_name(tensor.dtype), tuple(tensor.shape), functools.partial(_load_part, entry, part)
            )
    return flat, packed


def _load_part(entry: Entry, part: str) -> torch.Tensor:
    return entry.load().parts[part]


def values(stored: Stored) -> torch.Tensor:
    """The values of a stored tensor as float32; whole numbers, such as packed masks, as they are."""
    if isinstance(stored, Packed):
        return stored.dequantize()
    return stored.float() if stored.is_floating_point() else stored


def stored_bytes(format_name: str, shape: tuple[int, ...]) -> int:
    """Exact bytes that a tensor of this shape takes in this format."""
    return get(format_name).tensor_bytes(shape)
