"""LoRA factors of a PEFT adapter folder, read and written: `adapter_config.json` and `adapter_model.safetensors`.

Any PEFT LoRA folder will do, ours or not: ranks and alphas by pattern, rank-stabilised scaling, targets by regular
expression, weights stored the other way round (`fan_in_fan_out`: that is the base's matter, factors are always A
[rank, in] and B [out, rank]), LoRA of embeddings. Fully trained modules (`modules_to_save`) are carried over as they
are. Refused, because the change of a weight is not scale * B A there: DoRA, trained biases, pickled weights, variants
with further tensors, convolutions, and initialisations that change the base's own weights (PiSSA and its like).
What is written lists its modules by exact name and is loaded by stock PEFT. Knows no base: see `core.adapter_facts`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featherweight.core.checkpoint import Entry, file_entries
from featherweight.core.errors import AdapterError
from featherweight.core.in_file import dtype_name
from featherweight.core.lazy import torch
from featherweight.core.shards import shards_bytes
from featherweight.core.user_file import read_json_object

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?!\.bias)(\.[^.]+?)??(\.weight)?")
_OWN_FUNCTION = {
    "use_dora": "DoRA, whose magnitudes belong to the exact directions",
    "use_qalora": "QA-LoRA, which pools its input",
    "use_bdlora": "BD-LoRA, whose factors are block-diagonal",
    "lora_bias": "LoRA with a bias of its own",
    "arrow_config": "Arrow, which routes between adapters",
    "kasa_config": "KaSA, which changes the base's weights",
    "monteclora_config": "MonteCLoRA, which samples its factors",
    "target_parameters": "LoRA of bare parameters",
    "trainable_token_indices": "LoRA with trained tokens",
}
_EXPORTED = ("MATRYOSHKA_LORA", "GPART")  # kinds that `adapter export` writes as LoRA
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


class LoraFactors(NamedTuple):
    """What an adapter adds to one weight: scale * b @ a.

    Attributes:
        a: [rank, in]; of an embedding [rank, tokens], and what is added is the transpose.
        b: [out, rank].
        scale: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])

    @property
    def parameters(self) -> int:
        return self.a.numel() + self.b.numel()


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        factors: by module name, as the base model has it: "model.layers.0.self_attn.q_proj".
        config: `adapter_config.json`.
        embeddings: those of the modules that are embeddings.
        carried: tensors of fully trained modules, by their name in the file.
        folder: where it was read from.
    """

    factors: Mapping[str, LoraFactors]
    config: Mapping[str, Any]
    embeddings: frozenset[str] = frozenset()
    carried: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    folder: Path = Path()

    @property
    def parameters(self) -> int:
        """Numbers in all factors."""
        return sum(each.parameters for each in self.factors.values())

    def with_factors(self, factors: Mapping[str, LoraFactors]) -> Adapter:
        """The same adapter with other factors; modules that are left out are not adapted any more."""
        return dataclasses.replace(self, factors=dict(factors))


def read_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json` of a folder, of whatever PEFT method.

    Raises:
        AdapterError: there is none, or it cannot be read.
    """
    if not folder.is_dir():
        raise AdapterError(str(folder), "is no folder", "give the folder that PEFT's save_pretrained wrote")
    path = folder / CONFIG
    if not path.is_file():
        inside = sorted(each.parent for each in folder.glob(f"*/{CONFIG}"))
        mend = f"did you mean {inside[0]}?" if inside else "give the folder that PEFT's save_pretrained wrote"
        raise AdapterError(str(folder), f"is no adapter: it has no {CONFIG}", mend)
    return read_json_object(path, AdapterError, "save the adapter again")


def read_adapter(folder: Path, method: str = "LORA") -> Adapter:
    """The LoRA adapter in a PEFT folder.

    Args:
        folder: that PEFT wrote.
        method: the `peft_type` that it must be of: plain LoRA, or a method whose factors are stored like its.

    Raises:
        AdapterError: it is no LoRA, its change of a weight is not scale * B A, or its files cannot be read.
    """
    config = read_config(folder)
    _require_plain(folder, config, method)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    embeddings, carried = set(), {}
    for name, entry in file_entries(weights_file(folder)).items():
        match = _FACTOR.fullmatch(name.removeprefix(PREFIX))
        if match is None:
            carried[name] = _carried(folder, name, entry)
            continue
        sides.setdefault(match["module"], {})[match["side"]] = _finite(folder, name, entry)
        embeddings |= {match["module"]} if match["embedding"] else set()
    if not sides:
        raise AdapterError(str(folder), "holds no LoRA factors", "save the adapter again")
    factors = {module: _joined(folder, config, module, pair) for module, pair in sides.items()}
    return Adapter(factors, config, frozenset(embeddings), carried, folder)


def _require_plain(folder: Path, config: Mapping[str, Any], method: str) -> None:
    kind = str(config.get("peft_type"))
    if kind != method:
        mend = f"run featherweight adapter export {folder} first" if kind in _EXPORTED else "give a LoRA folder"
        raise AdapterError(str(folder), f"is a {kind} adapter, and has no LoRA factors", mend)
    found = next((why for field, why in _OWN_FUNCTION.items() if config.get(field)), None)
    if found:
        raise AdapterError(str(folder), f"is {found}: not scale * B A alone", "merge it into the model with PEFT")
    if config.get("bias", "none") != "none":
        raise AdapterError(str(folder), "holds trained biases", "merge it into the model, or train with bias='none'")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_BASE):
        raise AdapterError(
            str(folder), f"was started with {start!r}, which changes the base's own weights",
            "save it with PEFT's path_initial_model_for_weight_conversion",
        )  # fmt: skip


def weights_file(folder: Path) -> Path:
    """The file of tensors. A pickle can run code when it is loaded: it is never opened.

    Raises:
        AdapterError: there is none, or only a pickle.
    """
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if (folder / PICKLED).is_file():
        raise AdapterError(
            str(folder / PICKLED), "is a pickle, which can run code when it is loaded",
            "load it with PEFT where you trust its author and save it again: save_pretrained writes safetensors",
        )  # fmt: skip
    raise AdapterError(str(folder), f"has no {WEIGHTS}", "save the adapter again")


def _finite(folder: Path, name: str, entry: Entry) -> torch.Tensor:
    tensor: torch.Tensor = entry.load()
    if not bool(torch.isfinite(tensor).all()):
        raise AdapterError(f"{folder}, {name}", "holds NaN or infinite values", "train it again, or take a checkpoint")
    return tensor


def _carried(folder: Path, name: str, entry: Entry) -> torch.Tensor:
    """A tensor that is no factor: of a fully trained module, or of an embedding that PEFT saved beside it."""
    if "lora_" in name:
        raise AdapterError(f"{folder}, {name}", "is no LoRA factor", "merge the adapter into the model with PEFT")
    return _finite(folder, name, entry)


def _joined(folder: Path, config: Mapping[str, Any], module: str, pair: Mapping[str, torch.Tensor]) -> LoraFactors:
    if len(pair) < 2:
        raise AdapterError(f"{folder}, {module}", f"has only the factor {next(iter(pair))}", "save the adapter again")
    a, b = pair["A"], pair["B"]
    if a.dim() != 2 or b.dim() != 2:
        raise AdapterError(f"{folder}, {module}", "is a convolution", "merge the adapter into the model with PEFT")
    if a.shape[0] != b.shape[1]:
        why = f"has factors of different ranks, {a.shape[0]} and {b.shape[1]}"
        raise AdapterError(f"{folder}, {module}", why, "save the adapter again")
    alpha = float(by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return LoraFactors(a, b, alpha / _divisor(config, int(a.shape[0])))


def by_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """What the first pattern says that a module's name, or the end of it after a dot, matches; PEFT's own rule."""
    found = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, otherwise)


def _divisor(config: Mapping[str, Any], rank: int) -> float:
    return math.sqrt(rank) if config.get("use_rslora") else float(rank)


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Writes an adapter into an existing folder, for stock PEFT: exact targets, ranks and alphas by pattern.

    Raises:
        AdapterError: no module is left: PEFT has no such adapter.
    """
    from safetensors.torch import save_file

    if not adapter.factors:
        raise AdapterError(str(adapter.folder), "has no module left", "keep more, or use the base model without it")
    save_file(tensors_of(adapter), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes files that only their owner may read
    (folder / CONFIG).write_text(json.dumps(config_of(adapter), indent=2) + "\n", encoding="utf-8")


def tensors_of(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The tensors of the file, under the names that PEFT reads."""
    tensors = {}
    for name, tensor in adapter.carried.items():
        module = name.removeprefix(PREFIX).rpartition(".base_layer.")[0]
        kept = name if not module or module in adapter.factors else name.replace(".base_layer.", ".")
        tensors[kept] = tensor.contiguous()
    for module, each in adapter.factors.items():
        for side, tensor in (("A", each.a), ("B", each.b)):
            leaf = f"lora_embedding_{side}" if module in adapter.embeddings else f"lora_{side}.weight"
            tensors[f"{PREFIX}{module}.{leaf}"] = tensor.contiguous()
    return tensors


def adapter_bytes(adapter: Adapter) -> int:
    """Exact bytes of the file of tensors that `write_adapter` would write; of tensors on the meta device too."""
    return shards_bytes({
        name: (dtype_name(each.dtype), tuple(each.shape)) for name, each in tensors_of(adapter).items()
    })  # fmt: skip


def config_of(adapter: Adapter) -> dict[str, Any]:
    """`adapter_config.json` for these factors.

    The commonest scale is the one that `lora_alpha / r` gives, with the largest rank: a server that knows one rank and
    one alpha for all modules then computes the same.
    """
    rank = max(each.rank for each in adapter.factors.values())
    scales = [each.scale for each in adapter.factors.values()]
    alpha = _whole(max(scales, key=scales.count) * _divisor(adapter.config, rank))
    alphas = {name: _whole(each.scale * _divisor(adapter.config, each.rank)) for name, each in adapter.factors.items()}
    ranks = {name: each.rank for name, each in adapter.factors.items()}
    return {
        **adapter.config,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _exceptions(ranks, rank),
        "alpha_pattern": _exceptions(alphas, alpha),
        "target_modules": sorted(adapter.factors),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
    }


def _whole(value: float) -> float | int:
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value


def _exceptions(values: Mapping[str, Any], usual: Any) -> dict[str, Any]:
    """What is not usual, long names first: PEFT takes the first name that another one ends with."""
    names: Sequence[str] = sorted(values, key=lambda name: (-len(name), name))
    return {name: values[name] for name in names if values[name] != usual}
