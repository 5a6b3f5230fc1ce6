"""A GPart adapter as LoRA, with what that loses: a change of full rank is cut to its largest singular values.

Servers of many adapters want two thin factors. A change that a random partition makes has no low-rank structure, so
its singular values fall slowly and a low rank loses most of it: merging is exact, this is not. PEFT's own conversion
makes the factors; here is the loss, by module and in all, and a folder that appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import rich.table
import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from featherweight.core.errors import AdapterError
from featherweight.core.whole import whole_folder
from featherweight.models.gpart_layer import GPartLayer

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Conversion:
    """LoRA factors, and what they lack.

    Attributes:
        config: for PEFT.
        tensors: factors by the names that PEFT reads.
        lost: norm of what is missing over the norm of the change, by module.
        lost_in_all: the same over all modules together.
    """

    config: peft.LoraConfig
    tensors: Mapping[str, torch.Tensor]
    lost: Mapping[str, float]
    lost_in_all: float

    def table(self) -> rich.table.Table:
        """The loss by module, the last line in all."""
        table = rich.table.Table("module", "rank", "lost (relative Frobenius norm)", title="GPart as LoRA")
        for module, lost in self.lost.items():
            rank = self.tensors[f"{_PREFIX}{module}.lora_A.weight"].shape[0]
            table.add_row(module, str(rank), f"{lost:.1%}")
        table.add_row("in all", "", f"{self.lost_in_all:.1%}")
        return table

    def save(self, target: Path) -> None:
        """Writes a LoRA folder that stock PEFT loads.

        Raises:
            OutputError: it exists, or cannot be written.
        """
        with whole_folder(target) as draft:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
            save_file(tensors, draft / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
            (draft / SAFETENSORS_WEIGHTS_NAME).chmod(0o644)
            self.config.save_pretrained(str(draft))


def to_lora(adapted: Any, rank: int | float, adapter: str = "default") -> Conversion:
    """Converts an adapter.

    Args:
        adapted: PEFT's wrapper of a module.
        rank: of every module; a fraction is the share of the squared norm to keep, with ranks that follow from it.
        adapter: its name.

    Raises:
        AdapterError: it is no GPart adapter, it changes biases, it changes nothing, or a module has no such rank.
    """
    layers = {name: each for name, each in adapted.named_modules() if isinstance(each, GPartLayer)}
    layers = {name: each for name, each in layers.items() if adapter in each.gpart_stretches}
    _require_convertible(layers, rank, adapter)
    config, tensors = peft.tuners.lora.conversion.convert_to_lora(adapted, rank, adapter)
    config.base_model_name_or_path = adapted.peft_config[adapter].base_model_name_or_path
    config.task_type = adapted.peft_config[adapter].task_type
    squares = {name.removeprefix(_PREFIX): _squares(name, each, tensors, adapter) for name, each in layers.items()}
    missing, total = (sum(each[place] for each in squares.values()) for place in range(2))
    lost = {name: _ratio(*each) for name, each in squares.items()}
    return Conversion(config, tensors, lost, _ratio(missing, total))


def _squares(name: str, layer: GPartLayer, tensors: Mapping[str, torch.Tensor], adapter: str) -> tuple[float, float]:
    """Squared norms of what is missing of a change, and of the change."""
    change = layer.get_delta_weight(adapter).double()
    change = change.T if layer.transposed else change
    product = tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double()
    return float((change - product).square().sum()), float(change.square().sum())


def _ratio(missing: float, total: float) -> float:
    return (missing / total) ** 0.5 if total else 0.0


def _require_convertible(layers: Mapping[str, GPartLayer], rank: int | float, adapter: str) -> None:
    what = f"converting {adapter!r} to LoRA"
    if not layers:
        raise AdapterError(what, "it is no GPart adapter of this model", "name one of the model's adapters")
    if not all(each.supports_lora_conversion(adapter) for each in layers.values()):
        raise AdapterError(what, "it changes biases too, which LoRA's factors cannot", "merge it into the model")
    if not next(iter(layers.values())).gpart_theta[adapter].any():
        raise AdapterError(what, "its vector is zero, so it changes nothing", "train it first")
    for reason in _bad_ranks(layers, rank):
        raise AdapterError(what, *reason)


def _bad_ranks(layers: Mapping[str, GPartLayer], rank: int | float) -> Iterator[tuple[str, str]]:
    smallest = min(layers, key=lambda name: min(layers[name].linear.weight.shape))
    size = min(layers[smallest].linear.weight.shape)
    if isinstance(rank, float) and not 0 < rank <= 1:
        yield f"{rank:g} is no share of the squared norm", "give a share above 0 and up to 1, or a whole rank"
    if isinstance(rank, int) and not 1 <= rank <= size:
        module = smallest.removeprefix(_PREFIX)
        yield f"rank {rank} is not from 1 to {size}, the smaller side of {module}", f"use a rank of at most {size}"
