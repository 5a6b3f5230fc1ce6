"""A GGUF file as a model: its blocks stay as they are, names and row order become Hugging Face's.

Configuration and tokenizer are those that an export of ours left in the file. A file from elsewhere gets its
configuration from `core.gguf_config` and its tokenizer from transformers' own GGUF reader. Reading is lazy: a tensor
is a view of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherweight.core.checkpoint import Entry, Stored
from featherweight.core.errors import CheckpointError
from featherweight.core.formats import Packed
from featherweight.core.formats.floats import Float
from featherweight.core.formats.ggml_layouts import LAYOUTS
from featherweight.core.gguf_companions import CONFIG, FILES, unpack_files
from featherweight.core.gguf_config import config_of, model_type
from featherweight.core.gguf_metadata import Field, GgufFile, TensorInfo, read_gguf
from featherweight.core.gguf_names import gguf_names, rotary_rows
from featherweight.core.lazy import gguf, np, torch, transformers
from featherweight.core.model import Model
from featherweight.core.whole import whole_folder

ROTARY = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
_PLAIN = {"F32", "F16", "BF16"}
NAME = "general.name"
_CONVERSION = 1  # raise when the conversion changes, so that old caches are not taken for new ones


def open_gguf(path: Path, cache: Path) -> Model:
    """A model whose tensors are those of a GGUF file.

    Args:
        path: the file.
        cache: folder for the tokenizer and configuration, made once a file.

    Raises:
        CheckpointError: not a GGUF file, truncated, or a block type that is not supported.
        UnsupportedArchitecture: llama.cpp knows the architecture, featherweight does not.
    """
    file = read_gguf(path)
    companions = _companions(file, cache)
    config = json.loads((companions / "config.json").read_text(encoding="utf-8"))
    model = Model(config, {}, companions)
    names = gguf_names(model.architecture, _parameter_names(model))
    _check_complete(file, set(names.values()))
    return model.with_changes({
        name: _entry(file, target, rotary_rows(model.architecture, name), _shift(model, name))
        for name, target in names.items()
    })  # fmt: skip


def _check_complete(file: GgufFile, expected: set[str]) -> None:
    """Refuses a file whose tensors are not those of its metadata: it would compute another function."""
    missing = sorted(expected - set(file.tensors))
    if missing:
        mend = "join its parts with llama-gguf-split" if file.get("split.count", 1) > 1 else "download it again"
        raise CheckpointError(str(file.path), f"lacks the tensor {missing[0]}", mend)
    extra = sorted(set(file.tensors) - expected - ROTARY)
    if extra:
        raise CheckpointError(
            str(file.path), f"holds the tensor {extra[0]}, which its metadata have no place for",
            "give the Hugging Face folder of this model",
        )  # fmt: skip


def _parameter_names(model: Model) -> list[str]:
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(model.hf_config())
    return [name for name, _ in module.named_parameters()]


def _shift(model: Model, name: str) -> float:
    """What llama.cpp has added to a parameter: its norms hold offset + weight."""
    return model.architecture.norm_offset if name.endswith("norm.weight") else 0.0


def _entry(file: GgufFile, target: str, rows: torch.Tensor | None, shift: float) -> Entry:
    info = file.tensors[target]
    if info.type not in _PLAIN and info.type not in LAYOUTS:
        raise CheckpointError(target, f"has the block type {info.type}", f"use one of {', '.join(LAYOUTS)}")

    def load() -> Stored:
        data = torch.from_numpy(np.array(file.data(target)))
        if info.type in _PLAIN:
            values = _unpermute(data.view(Float(info.type).dtype).reshape(info.shape), rows)
            return values - shift if shift else values
        return _packed(info, _unpermute(data.reshape(info.shape[0], -1), rows))

    return Entry(info.type, info.shape, info.nbytes, load)


def _packed(info: TensorInfo, blocks: torch.Tensor) -> Packed:
    return Packed(info.type, (info.shape[0], info.shape[1]), {"blocks": blocks})


def _unpermute(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return values if rows is None else values[torch.argsort(rows)]


def _companions(file: GgufFile, cache: Path) -> Path:
    """Configuration and tokenizer of a GGUF file as Hugging Face files, converted once."""
    model_type(file)
    facts = {key: field.value for key, field in file.fields.items() if key != "general.file_type"}
    digest = hashlib.sha256(json.dumps([_CONVERSION, facts, sorted(file.tensors)]).encode()).hexdigest()
    target = cache / "gguf" / f"{file.path.stem}-{digest[:16]}"
    if target.is_dir():
        return target
    with whole_folder(target) as draft:
        (draft / "config.json").write_text(_config_text(file), encoding="utf-8")
        if FILES in file.fields:
            unpack_files(file.get(FILES), file.fields, draft)
        else:
            _convert_tokenizer(file).save_pretrained(draft)
            repair_tokenizer(draft, str(file.get("tokenizer.ggml.pre")))
        write_vocabulary(file, draft / "tokenizer.gguf")
    return target


def _convert_tokenizer(file: GgufFile) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            str(file.path), f"has a tokenizer that cannot be read ({error})", "give the Hugging Face folder"
        ) from None


def _config_text(file: GgufFile) -> str:
    return str(file.get(CONFIG)) if CONFIG in file.fields else json.dumps(config_of(file), indent=2)


def repair_tokenizer(folder: Path, pre: str) -> None:
    """Restores what transformers' GGUF converter leaves out of the pre-tokenizer.

    llama.cpp's "smollm" splits digits one by one before the byte-level step; the converter keeps only the latter.
    """
    if pre not in ("smollm", "starcoder", "refact", "command-r"):
        return
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, bytes_]}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def write_vocabulary(file: GgufFile, path: Path) -> None:
    """A GGUF file with the tokenizer's fields only, so that an export can give llama.cpp exactly what it had."""
    writer = gguf.GGUFWriter(path, str(file.get("general.architecture")))
    add_fields(writer, tokenizer_fields(file))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def tokenizer_fields(file: GgufFile) -> dict[str, Field]:
    """Every `tokenizer.*` field of a file, and the model's name, at which llama.cpp looks too."""
    return {key: field for key, field in file.fields.items() if key.startswith("tokenizer.") or key == NAME}


def add_fields(writer: Any, fields: Mapping[str, Field]) -> None:
    """Writes metadata fields, types and all."""
    kinds = gguf.GGUFValueType
    for key, field in fields.items():
        element = None if field.element is None else kinds(field.element)
        writer.add_key_value(key, field.value, kinds(field.type), sub_type=element)
