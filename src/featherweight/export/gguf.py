"""Writes a model as a GGUF file for llama.cpp, and knows its exact size without writing it.

Every tensor goes to the file in the format that is recorded on the model, block by block as the quantizer left it;
tensors are streamed one at a time. Nothing is rounded here but plain float32 matrices (to BF16 unless told otherwise)
and Gemma's norms, whose offset is added as llama.cpp wants it. `as_stored` is the model that the file holds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from featherweight.core.checkpoint import Entry
from featherweight.core.errors import FormatError, OutputError
from featherweight.core.formats import Packed, get
from featherweight.core.formats.composed import require_single
from featherweight.core.formats.floats import Float
from featherweight.core.gguf_companions import CONFIG, FILES
from featherweight.core.gguf_file import add_fields
from featherweight.core.gguf_names import gguf_names, rotary_rows
from featherweight.core.lazy import gguf, np, torch
from featherweight.core.model import Model
from featherweight.core.whole import whole_file
from featherweight.export.gguf_header import add_hyper_parameters, file_type, rotary_tensors
from featherweight.export.gguf_tokenizer import tokenizer_of

Matrices = Literal["BF16", "F16", "F32"]
_ALIGNMENT = 32


def stored_format(name: str, entry: Entry, matrices: Matrices = "BF16") -> str:
    """The GGUF type that a tensor is written in.

    Raises:
        FormatError: its format belongs to another runtime.
    """
    if len(entry.shape) != 2:
        return "F32"
    require_single(get(entry.format), name)
    if get(entry.format).runtime not in ("gguf", "any"):
        raise FormatError(
            f"{name} in {entry.format}", "is in no format of GGUF files",
            "quantize to a GGUF block type such as Q4_0, or export a Hugging Face folder",
        )  # fmt: skip
    return matrices if entry.format == "F32" else entry.format


def _require_stock(model: Model) -> None:
    if model.architecture.variant:
        raise FormatError(
            f"a model of the class {model.architecture.class_name}", "is none that llama.cpp knows",
            "fold it to one domain first, or export a Hugging Face folder",
        )  # fmt: skip
    if model.extra:
        raise FormatError(
            f"the tensor {next(iter(model.extra))}", "has no place in GGUF files", "export a Hugging Face folder"
        )


def as_stored(model: Model, matrices: Matrices = "BF16") -> Model:
    """The model that the file holds: float32 matrices rounded, norms as they come back from llama.cpp's."""
    changed = {}
    for name, entry in model.entries.items():
        target, shift = stored_format(name, entry, matrices), _shift(model, name)
        if target != entry.format or shift:
            load = functools.partial(_as_read, entry, target, shift)
            changed[name] = Entry(target, entry.shape, get(target).tensor_bytes(entry.shape), load)
    return model.with_changes(changed)


def _as_read(entry: Entry, target: str, shift: float) -> torch.Tensor:
    values: torch.Tensor = entry.load().to(Float(target).dtype)
    return _shifted(_shifted(values, shift), -shift)


def _shifted(values: torch.Tensor, shift: float) -> torch.Tensor:
    """`values` + `shift`; adding nothing would turn -0.0 into 0.0."""
    return values + shift if shift else values


def _shift(model: Model, name: str) -> float:
    return model.architecture.norm_offset if name.endswith("norm.weight") else 0.0


def write_gguf(model: Model, path: Path, matrices: Matrices = "BF16") -> None:
    """Writes a model as one GGUF file: whole, or not at all.

    Args:
        model: its rounded tensors must be in GGUF block types.
        path: the file; it must not exist.
        matrices: the type of matrices that are plain float32 in the model.

    Raises:
        FormatError: a tensor, the tokenizer or the architecture cannot be expressed in GGUF.
        OutputError: the file exists or cannot be written.
    """
    if path.exists():
        raise OutputError(str(path), "exists already", "choose another file or remove it")
    _require_stock(model)
    with whole_file(path) as draft:
        _write(model, draft, matrices)


def _write(model: Model, path: Path, matrices: Matrices) -> None:
    writer = _write_header(model, path, matrices)
    try:
        for data in _tensors(model, matrices):
            writer.write_tensor_data(data)
    finally:
        writer.close()


def _write_header(model: Model, path: Path, matrices: Matrices) -> Any:
    """A writer that has written everything before the first tensor."""
    kinds = {name: stored_format(name, entry, matrices) for name, entry in model.entries.items()}
    writer = gguf.GGUFWriter(path, model.architecture.gguf)
    add_hyper_parameters(writer, model)
    writer.add_file_type(file_type([kind for name, kind in kinds.items() if len(model.entries[name].shape) == 2]))
    for name, target in gguf_names(model.architecture, list(kinds)).items():
        shape, kind = model.entries[name].shape, kinds[name]
        nbytes = get(kind).tensor_bytes(shape)
        writer.add_tensor_info(target, shape, np.dtype(np.float32), nbytes, gguf.GGMLQuantizationType[kind])
    for target, values in rotary_tensors(model).items():
        writer.add_tensor_info(target, values.shape, np.dtype(np.float32), 4 * values.numel())
    _add_companions(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _add_companions(writer: Any, model: Model) -> None:
    tokenizer = tokenizer_of(model)
    add_fields(writer, tokenizer.fields)
    writer.add_string(CONFIG, json.dumps(dict(model.config)))
    writer.add_string(FILES, tokenizer.files or "")


def _tensors(model: Model, matrices: Matrices) -> Iterator[np.ndarray]:
    """The bytes of each tensor, in the order of the header."""
    for name, entry in model.entries.items():
        stored = entry.load()
        rows = rotary_rows(model.architecture, name)
        if isinstance(stored, Packed):
            yield _ordered(stored.parts["blocks"], rows).numpy()
            continue
        values = stored.to(Float(stored_format(name, entry, matrices)).dtype)
        yield _ordered(_shifted(values, _shift(model, name)), rows).contiguous().view(torch.uint8).numpy()
    for values in rotary_tensors(model).values():
        yield values.numpy()


def _ordered(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return values if rows is None else values[rows]


def gguf_size(model: Model, formats: Mapping[str, str] | None = None, matrices: Matrices = "BF16") -> int:
    """Exact bytes of the file that `write_gguf` would write.

    Args:
        model: as it would be given to `write_gguf`.
        formats: formats by parameter name, for tensors that are to be rounded first.
        matrices: as for `write_gguf`.

    Raises:
        FormatError: a format is not one of GGUF, or does not fit its tensor.
    """
    _require_stock(model)
    size = _header_bytes(model)
    for name, entry in model.entries.items():
        if formats and name in formats:
            get(formats[name]).require(entry.shape, name)
            entry = dataclasses.replace(entry, format=formats[name])
        size += _padded(get(stored_format(name, entry, matrices)).tensor_bytes(entry.shape))
    return size


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


_HEADERS: dict[tuple[str, ...], int] = {}


def _header_bytes(model: Model) -> int:
    """Bytes that are not the model's tensors: measured once for each configuration, tokenizer and set of names.

    They do not depend on the formats of the tensors: the header names each in a field of fixed length.
    """
    key = (str(model.folder), model.tokenizer_digest, json.dumps(dict(model.config)), *model.entries)
    if key not in _HEADERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "header.gguf"
            _write_header(model, path, "BF16").close()
            rotary = sum(_padded(4 * values.numel()) for values in rotary_tensors(model).values())
            _HEADERS[key] = _padded(path.stat().st_size) + rotary
    return _HEADERS[key]
