"""A MatryoshkaLoRA at one rank as a plain LoRA, which PEFT, vLLM and llama.cpp load without us.

The first r components are sliced out. What they are scaled by becomes alpha / r (`drop_weight`); components' own
weights are folded into A, with alpha = r (`keep_weight`). What was written is read again, and its change of every
matrix compared with what the adapter serves at that rank. Modules that were trained whole are carried over.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import peft
import torch

from featherweight.core.adapter_facts import read_facts, write_facts
from featherweight.core.adapter_folder import Adapter, LoraFactors, read_adapter, read_config, write_adapter
from featherweight.core.errors import AdapterError
from featherweight.core.whole import whole_folder
from featherweight.models.matryoshka_config import NAME, MatryoshkaLoraConfig
from featherweight.models.matryoshka_layer import NestedRanks

_PLAIN = {field.name for field in dataclasses.fields(peft.LoraConfig)}


def export_rank(folder: Path, rank: int, out: Path) -> Path:
    """Writes what a MatryoshkaLoRA folder serves at a rank as a PEFT LoRA folder; layers of a lower rank keep theirs.

    Args:
        folder: the adapter, as PEFT's save_pretrained wrote it.
        rank: 1 to the adapter's rank; it need not be one of those that were trained for.
        out: where the LoRA is written; must not exist.

    Raises:
        AdapterError: the folder holds no MatryoshkaLoRA, or one without that rank.
        OutputError: `out` exists or cannot be written.
    """
    kind = str(read_config(folder).get("peft_type"))
    if kind != NAME.upper():
        raise AdapterError(
            str(folder), f"is a {kind} adapter, whose first components are no adapter by themselves",
            "cut its rank with `featherweight adapter shrink`",
        )  # fmt: skip
    nested = read_adapter(folder, kind)
    highest = max(factors.rank for factors in nested.factors.values())
    if not 1 <= rank <= highest:
        raise AdapterError(f"rank {rank} of {folder}", f"the adapter has ranks up to {highest}", f"give 1 to {highest}")
    plain = at_rank(nested, rank)
    with whole_folder(out) as draft:
        write_adapter(plain, draft)
        facts = read_facts(folder)
        if facts is not None:
            receipt = {"step": "export", "rank": rank, "from": facts.method}
            write_facts(draft, dataclasses.replace(facts.with_receipt(receipt), method="lora"))
        _require_same(nested, read_adapter(draft), rank)
    return out


def at_rank(nested: Adapter, rank: int) -> Adapter:
    """What a MatryoshkaLoRA serves at a rank, as a plain LoRA."""
    served = {module: _cut(_variant(nested, factors), factors, rank) for module, factors in nested.factors.items()}
    config = {name: value for name, value in nested.config.items() if name in _PLAIN}
    return dataclasses.replace(nested, factors=served, config={**config, "peft_type": "LORA"})


def _variant(nested: Adapter, factors: LoraFactors) -> NestedRanks:
    settings = {name: value for name, value in nested.config.items() if name in _SETTINGS}
    config = MatryoshkaLoraConfig(**{**settings, "r": nested.config["r"]})
    return NestedRanks(config, factors.rank)


_SETTINGS = {field.name for field in dataclasses.fields(MatryoshkaLoraConfig)} - _PLAIN | {"rank_pattern"}


def _cut(variant: NestedRanks, factors: LoraFactors, rank: int) -> LoraFactors:
    weights = variant.weights(rank)
    kept = len(weights)
    a, b = factors.a[:kept], factors.b[:, :kept]
    if len(set(weights)) == 1:
        return LoraFactors(a, b, weights[0])
    return LoraFactors((a.double() * torch.tensor(weights, dtype=torch.float64)[:, None]).to(a.dtype), b, 1.0)


def _require_same(nested: Adapter, written: Adapter, rank: int) -> None:
    """The file must change every weight as the adapter does, but for the rounding of its number format."""
    for module, factors in nested.factors.items():
        weights = torch.tensor(_variant(nested, factors).weights(rank), dtype=torch.float64)
        kept = len(weights)
        expected = (factors.b[:, :kept].double() * weights) @ factors.a[:kept].double()
        a, b, scale = written.factors[module]
        error = (scale * b.double() @ a.double() - expected).norm()
        if error > 4 * torch.finfo(a.dtype).eps * expected.norm():
            raise AdapterError(f"{written.folder}, {module}", "is not what the adapter serves", "report this as a bug")
