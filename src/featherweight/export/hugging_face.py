"""Writes a model as a folder that stock transformers and vLLM load, and knows its exact size without writing it.

Tensors in integer formats become compressed-tensors' "pack-quantized" parts, everything else is stored in one
floating-point type. One group of the quantization config a format, with the exact names of its modules as targets.

What stock transformers 5.23 with compressed-tensors 0.20 loads decides what is allowed. If all rounded tensors share
one format: any integer format, and a rounded embedding too (`dequantize` in the config makes it expand weights on
loading). If formats are mixed: symmetric ones only, a plain embedding, bfloat16 for the rest. vLLM, not tried here,
fuses query/key/value and gate/up and wants one format for the members of each, and a plain embedding.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.checkpoint import Entry
from featherweight.core.errors import FormatError
from featherweight.core.formats import FLOATS, get
from featherweight.core.formats.composed import require_single
from featherweight.core.formats.floats import Float
from featherweight.core.formats.integer import PackedInteger
from featherweight.core.lazy import torch
from featherweight.core.model import MASK, Model, copy_companions, write_extra
from featherweight.core.shards import Loader, shards_bytes, write_shards

Dtype = Literal["bfloat16", "float16", "float32"]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""safetensors type and shape by name."""

_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
METHOD, FORMAT = "compressed-tensors", "pack-quantized"


def stored_formats(model: Model, formats: Mapping[str, str] | None = None, dtype: Dtype = "bfloat16") -> dict[str, str]:
    """The format that each tensor is stored in: its own if it is an integer format, else `dtype`.

    Args:
        model: the model.
        formats: formats by parameter name, for tensors that are to be rounded first.
        dtype: of everything that is not rounded.

    Raises:
        FormatError: a format belongs to another runtime or does not fit, or stock transformers cannot load the mix.
    """
    kinds = {name: (formats or {}).get(name, entry.format) for name, entry in model.entries.items()}
    masks = [name for name, kind in kinds.items() if kind == MASK]
    kinds = {name: kind for name, kind in kinds.items() if kind != MASK}
    for name, kind in kinds.items():
        require_single(get(kind), name)
        if kind not in FLOATS and not isinstance(get(kind), PackedInteger):
            raise FormatError(
                f"{name} in {kind}", "is in no format of Hugging Face folders",
                "quantize to one such as int4-g64, or export a GGUF file",
            )  # fmt: skip
        get(kind).require(model.entries[name].shape, name)
    rounded = {name: kind for name, kind in kinds.items() if kind not in FLOATS}
    _require_loadable(rounded, dtype)
    if masks and rounded:
        raise FormatError(
            f"{next(iter(rounded))} in a model with masks", "is rounded, and compressed-tensors knows no masks",
            "fold the model to one domain before it is rounded",
        )  # fmt: skip
    return {name: _NAMES[dtype] if kind in FLOATS else kind for name, kind in kinds.items()} | dict.fromkeys(
        masks, MASK
    )


def _require_loadable(rounded: Mapping[str, str], dtype: Dtype) -> None:
    if len(set(rounded.values())) < 2:
        return
    if dtype != "bfloat16":
        raise FormatError(
            f"a model that mixes formats, stored as {dtype}", "transformers would round its weights differently",
            "store it as bfloat16, or use one format for all",
        )  # fmt: skip
    for name, kind in rounded.items():
        if kind.endswith("-asym") or name == EMBEDDING:
            what = "asymmetric tensors" if kind.endswith("-asym") else "a rounded embedding"
            raise FormatError(
                f"{name} in {kind}", f"transformers cannot load {what} in a model that mixes formats",
                "use symmetric formats and a plain embedding, or one format for all, or export a GGUF file",
            )  # fmt: skip


def as_stored(model: Model, dtype: Dtype = "bfloat16") -> Model:
    """The model that the folder holds: everything that is not in an integer format rounded to `dtype`.

    Raises:
        FormatError: see `stored_formats`.
    """
    changed = {}
    for name, target in stored_formats(model, dtype=dtype).items():
        entry = model.entries[name]
        if target != entry.format:
            nbytes = get(target).tensor_bytes(entry.shape)
            changed[name] = Entry(target, entry.shape, nbytes, functools.partial(_cast, entry, target))
    return model.with_changes(changed, config={"architectures": [model.architecture.class_name], "dtype": dtype})


def _cast(entry: Entry, target: str) -> torch.Tensor:
    values: torch.Tensor = entry.load()
    return values.to(Float(target).dtype)


def write_hugging_face(model: Model, folder: Path, dtype: Dtype = "bfloat16") -> None:
    """Writes weights, configuration and tokenizer into an existing folder.

    Args:
        model: its rounded tensors must be in integer formats.
        folder: a draft, as from `core.checkpoint.whole_folder`.
        dtype: of everything that is not rounded.

    Raises:
        FormatError: see `stored_formats`.
    """
    stored = as_stored(model, dtype)
    write_shards(folder, _loaders(stored))
    config = {key: value for key, value in stored.config.items() if key not in ("quantization_config", "torch_dtype")}
    if any(entry.format not in (*FLOATS, MASK) for entry in stored.entries.values()):
        config["quantization_config"] = quantization_config(stored)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_extra(folder, model.extra)
    copy_companions(model.folder, folder)
    (folder / "tokenizer.gguf").unlink(missing_ok=True)  # of use to llama.cpp only


def hugging_face_size(model: Model, formats: Mapping[str, str] | None = None, dtype: Dtype = "bfloat16") -> int:
    """Exact bytes of the safetensors files that `write_hugging_face` would write.

    Args:
        model: as it would be given to `write_hugging_face`.
        formats: formats by parameter name, for tensors that are to be rounded first.
        dtype: as for `write_hugging_face`.

    Raises:
        FormatError: see `stored_formats`.
    """
    shapes: Shapes = {}
    for name, kind in stored_formats(model, formats, dtype).items():
        parts = _parts(kind, model.entries[name].shape)
        shapes.update({_part_name(name, part): facts for part, facts in parts.items()})
    extra = {name: (entry.format, entry.shape) for name, entry in model.extra.items()}
    return shards_bytes(shapes) + (shards_bytes(extra) if extra else 0)


def _parts(kind: str, shape: tuple[int, ...]) -> Shapes:
    """What is stored of a tensor, by part; a plain tensor is one part without a name."""
    form = None if kind == MASK else get(kind)
    return form.part_shapes(shape) if isinstance(form, PackedInteger) else {"": (kind, shape)}


def _part_name(name: str, part: str) -> str:
    """compressed-tensors' name of a part of a weight; the weight's own where it is whole."""
    return f"{name.removesuffix('weight')}{part}" if part else name


def _loaders(model: Model) -> dict[str, Loader]:
    """Everything that the files hold."""
    loaders = {}
    for name, entry in model.entries.items():
        for part, (dtype, shape) in _parts(entry.format, entry.shape).items():
            loaders[_part_name(name, part)] = Loader(dtype, tuple(shape), functools.partial(_load, entry, part))
    return loaders


def _load(entry: Entry, part: str) -> torch.Tensor:
    stored = entry.load()
    values: torch.Tensor = stored.parts[part] if part else stored
    return values.contiguous()


def quantization_config(model: Model) -> dict[str, Any]:
    """compressed-tensors' description of which module is in which format."""
    targets: dict[str, list[str]] = {}
    for name, entry in model.entries.items():
        if entry.format not in FLOATS:
            targets.setdefault(entry.format, []).append(name.removesuffix(".weight"))
    quantized = {module for modules in targets.values() for module in modules}
    linears = [name.removesuffix(".weight") for name in (*model.architecture.linears(), HEAD)]
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "dequantize": len(targets) == 1,
        "config_groups": {
            f"group_{index}": _group(kind, modules) for index, (kind, modules) in enumerate(sorted(targets.items()))
        },
        "ignore": [module for module in linears if module not in quantized],
    }


def _group(kind: str, modules: list[str]) -> dict[str, Any]:
    form = get(kind)
    assert isinstance(form, PackedInteger)
    weights = {
        "num_bits": form.bits,
        "type": "int",
        "symmetric": form.symmetric,
        "strategy": "channel" if form.channelwise else "group",
        "group_size": None if form.channelwise else form.group,
        "dynamic": False,
    }
    return {"targets": modules, "weights": weights, "format": FORMAT}
