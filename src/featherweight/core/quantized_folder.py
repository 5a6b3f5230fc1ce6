"""Reads the "pack-quantized" tensors of a Hugging Face folder as rounded tensors, from its quantization config alone.

Folders of ours and of others (llm-compressor writes them). Knows nothing of other ways to quantize.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherweight.core.checkpoint import Entry, load_parts
from featherweight.core.errors import CheckpointError

PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
_LINEAR = "Linear"


def join_quantized(entries: Mapping[str, Entry], config: Mapping[str, Any], folder: Path) -> dict[str, Entry]:
    """Entries in which the parts of each packed weight are one rounded tensor.

    Args:
        entries: as they lie in the files.
        config: `config.json`; its `quantization_config` says which module is in which format.
        folder: for messages.

    Raises:
        CheckpointError: the folder is quantized in a way that is not supported.
    """
    quantization = config.get("quantization_config")
    packed = [name.removesuffix(".weight_packed") for name in entries if name.endswith(".weight_packed")]
    if quantization is None or not packed:
        _require_plain(quantization, entries, folder)
        return dict(entries)
    result = {name: entry for name, entry in entries.items() if name.rpartition(".")[2] not in PARTS}
    for module in packed:
        parts = {part: entries[f"{module}.{part}"] for part in PARTS if f"{module}.{part}" in entries}
        shape = tuple(int(size) for size in parts["weight_shape"].load())
        kind = _format_of(module, quantization, folder)
        load = functools.partial(load_parts, kind, (shape[0], shape[1]), parts)
        result[f"{module}.weight"] = Entry(kind, shape, sum(part.nbytes for part in parts.values()), load)
    return result


def _require_plain(quantization: Mapping[str, Any] | None, entries: Mapping[str, Entry], folder: Path) -> None:
    scales = any("weight_scale" in name or name.endswith(".qweight") for name in entries)
    if quantization is None or not (scales or quantization.get("quant_method") != "compressed-tensors"):
        return
    method = f"{quantization.get('quant_method')} {quantization.get('format', '')}".strip()
    raise CheckpointError(str(folder), f"is quantized as {method!r}, which is not supported", "give the original model")


def _format_of(module: str, quantization: Mapping[str, Any], folder: Path) -> str:
    """The name of the integer format of a module."""
    for matches in (_by_name, _by_pattern, _by_class):
        for group in quantization["config_groups"].values():
            if any(matches(module, target) for target in group["targets"]):
                return _format_name(group["weights"])
    raise CheckpointError(
        str(folder), f"holds {module} packed, and no group of its quantization config targets it", "download it again"
    )


def _by_name(module: str, target: str) -> bool:
    return module == target


def _by_pattern(module: str, target: str) -> bool:
    return target.startswith("re:") and re.match(target.removeprefix("re:"), module) is not None


def _by_class(module: str, target: str) -> bool:
    return target == _LINEAR


def _format_name(weights: Mapping[str, Any]) -> str:
    group = weights.get("group_size")
    columns = f"g{group}" if group and group > 0 else "channel"
    return f"int{weights['num_bits']}-{columns}{'' if weights.get('symmetric', True) else '-asym'}"
