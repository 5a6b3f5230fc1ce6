"""LoRA on multi-scale deformable attention, by PEFT: any of its four linears, and the decoder's self-attention.

In every deformable attention (the pixel decoder's encoder; in Deformable DETR the decoder's cross-attention too) a
change of sampling_offsets moves where the feature map is read, one of attention_weights how much each place counts, one
of value_proj what is read there, one of output_proj what is made of it. The authors' script changes the first and the
third, and q and v of the decoder's self-attention, with rank = alpha = 8: the default here. arXiv 2606.01947.

Heads are trained whole, as PEFT's `modules_to_save`; heads that share their weights go on sharing them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from featherweight.core.attach import attach
from featherweight.core.errors import RecipeError, nearest
from featherweight.models.deformable import DEFORMABLE, deformable_layers, head_names, self_attention_layers

if TYPE_CHECKING:
    import peft

SELF_ATTENTION = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class DeformableLora:
    """What is changed, and by how much.

    Attributes:
        rank: of every change.
        alpha: the change is scaled by alpha / rank.
        deformable: linears of deformable attention.
        self_attention: linears of the decoder's self-attention.
        dropout: share of a linear's inputs that training hides from the change.
    """

    rank: int = 8
    alpha: int = 8
    deformable: tuple[str, ...] = ("sampling_offsets", "value_proj")
    self_attention: tuple[str, ...] = ("q_proj", "v_proj")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for names, known in ((self.deformable, DEFORMABLE), (self.self_attention, SELF_ATTENTION)):
            for name in names:
                if name not in known:
                    hint = nearest(name, known) or f"use some of {', '.join(known)}"
                    raise RecipeError(f"target module {name!r}", "is no linear of this attention", hint)
        if not self.deformable and not self.self_attention:
            raise RecipeError("the target modules", "are none", "name some of deformable or self-attention's linears")
        if self.rank < 1:
            raise RecipeError(f"rank {self.rank}", "is below 1", "use 1 or more")


def lora_targets(model: torch.nn.Module, settings: DeformableLora) -> list[str]:
    """Full names of the linears that are changed.

    Raises:
        RecipeError: the model has none of them, or the rank is above the size of one.
    """
    names = [f"{layer}.{name}" for layer in deformable_layers(model) for name in settings.deformable]
    names += [f"{layer}.{name}" for layer in self_attention_layers(model) for name in settings.self_attention]
    if not names:
        raise RecipeError("the target modules", "match nothing in the model", "name linears that it has")
    for name in names:
        smaller = min(model.get_submodule(name).weight.shape)  # type: ignore[arg-type]
        if settings.rank > smaller:
            raise RecipeError(
                f"rank {settings.rank}", f"is above the size of {name}, whose smaller side is {smaller}",
                f"use a rank of at most {smaller}",
            )  # fmt: skip
    return names


def lora_config(model: Any, settings: DeformableLora, heads: tuple[str, ...] = ()) -> peft.LoraConfig:
    """What PEFT is to put on this model.

    Args:
        model: a transformers model with deformable attention.
        settings: where, and of which rank.
        heads: modules to train whole; () = those of its kind.
    """
    import peft

    return peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
        target_modules=lora_targets(model, settings), modules_to_save=head_names(model, heads),
    )  # fmt: skip


def attach_lora(model: Any, settings: DeformableLora, generator: torch.Generator, heads: tuple[str, ...] = ()) -> Any:
    """PEFT's wrapper of a model with untrained changes; the model is changed in place, as PEFT does.

    Args:
        model: a transformers model with deformable attention.
        settings: where, and of which rank.
        generator: draws the factors A.
        heads: modules to train whole; () = those of its kind.
    """
    config = lora_config(model, settings, heads)
    shared = _shared(model, head_names(model, heads))
    with without_word_embeddings(model):
        adapted = attach(model, config, generator)
    for name, first in shared.items():
        copies, others = (adapted.base_model.model.get_submodule(each).modules_to_save for each in (name, first))
        copies["default"] = others["default"]
    return adapted


@contextmanager
def without_word_embeddings(model: Any) -> Iterator[None]:
    """PEFT looks for weights tied to word embeddings where a model ties any; a detector ties heads and has no words."""
    was = getattr(model.config, "tie_word_embeddings", False)
    model.config.tie_word_embeddings = False
    try:
        yield
    finally:
        model.config.tie_word_embeddings = was


def _shared(model: torch.nn.Module, heads: list[str]) -> dict[str, str]:
    """For each head that has the weights of an earlier one, that one: PEFT would train a copy for each name."""
    first: dict[tuple[int, ...], str] = {}
    found = {}
    for name in heads:
        weights = tuple(each.data_ptr() for each in model.get_submodule(name).parameters())
        if first.setdefault(weights, name) != name:
            found[name] = first[weights]
    return found
