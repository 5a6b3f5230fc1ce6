"""Where things are in a transformer with multi-scale deformable attention: Mask2Former, Deformable DETR, their kin.

Attention is found by its make, not by the name of a class: deformable attention has four linears, value_proj (of the
feature map), sampling_offsets, attention_weights and output_proj; an attention sub-layer is a child of a layer that
also has its layer norm. Only the names of the heads are a table, `segmenters.toml`. arXiv 2010.04159, 2112.01527.

Some of these models keep a second reference to sub-modules in a plain Python list and compute through that: a linear of
Mask2Former's mask head that is replaced by name goes on being used as it was. So whole sub-layers are wrapped here, and
low-rank changes go to attention's own linears.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
import transformers

from featherweight.core.errors import RecipeError, UnsupportedArchitecture, nearest

DEFORMABLE = ("value_proj", "sampling_offsets", "attention_weights", "output_proj")
"""The linears of deformable attention."""


@dataclass(frozen=True)
class AttentionLayer:
    """An attention sub-layer that a layer norm follows.

    Attributes:
        name: of the attention, such as "model.….layers.0.self_attn".
        width: of what it gives.
    """

    name: str
    width: int

    @property
    def layer(self) -> str:
        """The layer that it is in."""
        return self.name.rpartition(".")[0]


def attention_layers(model: torch.nn.Module) -> list[AttentionLayer]:
    """Every attention sub-layer of the encoder and decoder, in the order in which the model names them."""
    found = []
    modules = dict(model.named_modules())
    for name in modules:
        norm = modules.get(f"{name}_layer_norm")
        if name.endswith("_attn") and isinstance(norm, torch.nn.LayerNorm):
            found.append(AttentionLayer(name, int(norm.normalized_shape[0])))
    return found


def deformable_layers(model: torch.nn.Module) -> list[str]:
    """Names of the deformable attentions."""
    return [name for name, module in model.named_modules() if all(hasattr(module, each) for each in DEFORMABLE)]


def self_attention_layers(model: torch.nn.Module) -> list[str]:
    """Names of the decoder's ordinary self-attentions, which have linears q_proj and v_proj."""
    named = [(each.name, model.get_submodule(each.name)) for each in attention_layers(model)]
    return [name for name, module in named if name.endswith("self_attn") and hasattr(module, "q_proj")]


def head_names(model: Any, names: Sequence[str] = ()) -> list[str]:
    """Full names of the modules that are trained whatever else is frozen, lists opened.

    Args:
        model: a transformers model.
        names: to use instead of those of the table.

    Raises:
        UnsupportedArchitecture: the table has no such model and no names are given.
        RecipeError: a name is no module of the model.
    """
    kind = str(model.config.model_type)
    if not names and kind not in _table():
        raise UnsupportedArchitecture(
            kind, "is no model whose heads are known", f"name the heads, or use one of {', '.join(_table())}"
        )
    modules = dict(model.named_modules())
    found: list[str] = []
    for name in names or _table()[kind]["heads"]:
        if name not in modules:
            raise RecipeError(f"head {name!r}", "is no module of the model", nearest(name, modules) or "name another")
        # A decoder that refines boxes holds their heads too, by a longer name.
        same = [name, *(other for other in modules if other.endswith(f".{name}"))]
        found += [leaf for each in same for leaf in _members(each, modules[each])]
    return found


def _members(name: str, module: torch.nn.Module) -> list[str]:
    if isinstance(module, torch.nn.ModuleList):
        return [f"{name}.{index}" for index in range(len(module))]
    return [name]


def backbone(model: torch.nn.Module) -> torch.nn.Module:
    """The part that reads the pixels and gives feature maps.

    Raises:
        UnsupportedArchitecture: it has none of transformers' backbones.
    """
    for module in model.modules():
        if hasattr(module, "stage_names") and hasattr(module, "channels"):
            return module
    raise UnsupportedArchitecture(
        type(model).__name__, "has no backbone that gives feature maps", "use a model with one of transformers'"
    )


def require_deformable(model: Any) -> None:
    """Refuses a model that has no deformable attention.

    Raises:
        UnsupportedArchitecture: it has none.
    """
    if not isinstance(model, transformers.PreTrainedModel) or not deformable_layers(model):
        raise UnsupportedArchitecture(
            type(model).__name__, "has no deformable attention",
            "give a transformers Mask2FormerForUniversalSegmentation or DeformableDetrForObjectDetection",
        )  # fmt: skip


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("featherweight.models").joinpath("segmenters.toml").read_text("utf-8"))
