"""A GGUF file as a model: its blocks stay as they are, names and row order become Hugging Face's.

Configuration and tokenizer come from transformers' own GGUF reader. Reading is lazy: a tensor is a view of the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featherweight.core.architecture import require_known
from featherweight.core.checkpoint import Entry, Stored, whole_folder
from featherweight.core.errors import CheckpointError
from featherweight.core.formats import Packed
from featherweight.core.formats.ggml_layouts import LAYOUTS
from featherweight.core.gguf_names import gguf_names, rotary_rows
from featherweight.core.lazy import gguf, np, torch, transformers
from featherweight.core.model import Model

_PLAIN = {"F32", "F16", "BF16"}


def open_gguf(path: Path, cache: Path) -> Model:
    """A model whose tensors are those of a GGUF file.

    Args:
        path: the file.
        cache: folder for the tokenizer and configuration, made once a file.

    Raises:
        CheckpointError: not a GGUF file, truncated, or a block type that is not supported.
        UnsupportedArchitecture: llama.cpp knows the architecture, featherweight does not.
    """
    reader = read(path)
    companions = _companions(path, reader, cache)
    config = json.loads((companions / "config.json").read_text(encoding="utf-8"))
    model = Model(config, {}, companions)
    architecture = model.architecture
    names = _parameter_names(model)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    entries = {}
    for name, target in gguf_names(architecture, names).items():
        if target in tensors:
            entries[name] = _entry(tensors[target], rotary_rows(architecture, name), _shift(model, name))
    return model.with_changes(entries)


def read(path: Path) -> Any:
    """gguf-py's reader of a file, with readable errors."""
    if not path.is_file():
        raise CheckpointError(str(path), "does not exist", "give a .gguf file")
    try:
        reader = gguf.GGUFReader(str(path))
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        raise CheckpointError(str(path), f"is not a whole GGUF file ({error})", "download it again") from None
    end = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors), default=0)
    if end > path.stat().st_size or not reader.tensors:
        raise CheckpointError(str(path), f"is truncated: {path.stat().st_size} bytes of {end}", "download it again")
    return reader


def _parameter_names(model: Model) -> list[str]:
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(model.hf_config())
    return [name for name, _ in module.named_parameters()]


def _shift(model: Model, name: str) -> float:
    """What llama.cpp has added to a parameter: its norms hold offset + weight."""
    return model.architecture.norm_offset if name.endswith("norm.weight") else 0.0


def _entry(tensor: Any, rows: torch.Tensor | None, shift: float) -> Entry:
    kind = tensor.tensor_type.name
    shape = tuple(int(size) for size in reversed(tensor.shape))

    def load() -> Stored:
        data = np.array(tensor.data)
        if kind in _PLAIN:
            values = (
                torch.from_numpy(data.view(np.int16)).view(torch.bfloat16) if kind == "BF16" else torch.from_numpy(data)
            )
            values = values.reshape(shape)
            return _unpermute(values, rows) - shift if shift else _unpermute(values, rows)
        blocks = _unpermute(torch.from_numpy(data).reshape(shape[0], -1), rows)
        return Packed(kind, (shape[0], shape[1]), {"blocks": blocks})

    if kind not in _PLAIN and kind not in LAYOUTS:
        raise CheckpointError(tensor.name, f"has the block type {kind}", f"use one of {', '.join(LAYOUTS)}")
    return Entry(kind, shape, int(tensor.n_bytes), load)


def _unpermute(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return values if rows is None else values[torch.argsort(rows)]


def _field(reader: Any, key: str) -> Any:
    found = reader.get_field(key)
    return None if found is None else found.contents()


def _companions(path: Path, reader: Any, cache: Path) -> Path:
    """Configuration and tokenizer of a GGUF file as Hugging Face files, converted once."""
    kind = str(_field(reader, "general.architecture"))
    known = {"gemma3": "gemma3_text"}.get(kind, kind)
    require_known(known, str(path))
    stat = path.stat()
    target = cache / "gguf" / f"{path.stem}-{stat.st_size:x}-{stat.st_mtime_ns:x}"
    if target.is_dir():
        return target
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    config = transformers.AutoConfig.from_pretrained(**source).to_dict()
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    with whole_folder(target) as draft:
        tokenizer.save_pretrained(draft)
        config.pop("quantization_config", None)
        (draft / "config.json").write_text(json.dumps(_plain(config), indent=2), encoding="utf-8")
        repair_tokenizer(draft, str(_field(reader, "tokenizer.ggml.pre")))
        write_vocabulary(reader, draft / "tokenizer.gguf")
    return target


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config, default=str))


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


def write_vocabulary(reader: Any, path: Path) -> None:
    """A GGUF file with the tokenizer's fields only, so that an export can give llama.cpp exactly what it had."""
    writer = gguf.GGUFWriter(path, str(_field(reader, "general.architecture")))
    copy_tokenizer(reader, writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def copy_tokenizer(reader: Any, writer: Any) -> None:
    """Copies every `tokenizer.*` field from a reader to a writer, types and all."""
    for key, found in reader.fields.items():
        if not key.startswith("tokenizer."):
            continue
        kind = found.types[0]
        sub = found.types[1] if kind == gguf.GGUFValueType.ARRAY and len(found.types) > 1 else None
        writer.add_key_value(key, found.contents(), kind, sub_type=sub)
