"""Serial bottleneck adapters behind attention: small networks with a ReLU, several in a row, that cannot be merged.

With x what a layer gets, a = attention(x), and n adapters up(relu(down(.))), the layer norm sees x + z, where

    wiring "no-op" (ours)     z = a;  n times  z = a + up(relu(down(z)));      up = 0 at first, so z = a exactly
    wiring "paper"            z = a;  n times  z = x + a + up(relu(down(z)));  all weights drawn from N(0, 0.02)

The second is what the authors' code does: the residual x counts twice, so that an untrained adapter already turns the
pretrained LN(x + a) into about LN(2 x + a). It is kept to compare with. arXiv 2606.01947.

Where the layer has dropout it acts on z here, and on a in the authors' code; in evaluation, and without dropout as in
Mask2Former, there is no difference. Layers with the norm before attention have no "paper" wiring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import nn

from featherweight.core.errors import AdapterError, RecipeError, nearest
from featherweight.models.deformable import AttentionLayer, attention_layers

STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class SerialAdapter:
    """What is inserted.

    Attributes:
        count: adapters in a row behind each attention.
        reduction: width of the attention divided by that of the bottleneck.
        wiring: "no-op" starts at the base itself, "paper" does not.
        places: names, or ends of names, of the attentions; () = all of encoder and decoder.
    """

    count: int = 2
    reduction: int = 4
    wiring: Literal["no-op", "paper"] = "no-op"
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("count", self.count), ("reduction", self.reduction)):
            if value < 1:
                raise RecipeError(f"{name} = {value}", "is below 1", "use 1 or more")
        if self.wiring not in ("no-op", "paper"):
            raise RecipeError(f"wiring {self.wiring!r}", "is unknown", "use 'no-op' or 'paper'")


class Bottleneck(nn.Module):
    """up(relu(down(x))), down to the width of the bottleneck; weights [narrow, width] and [width, narrow]."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The change, of the shape of the states [..., width]."""
        changed: torch.Tensor = self.up(torch.relu(self.down(states)))
        return changed

    def draw(self, generator: torch.Generator, no_op: bool) -> None:
        """New weights; biases are zero, and `up` too where the adapter is to start as nothing."""
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=STANDARD_DEVIATION, generator=generator)
            nn.init.zeros_(linear.bias)
        if no_op:
            nn.init.zeros_(self.up.weight)


class AdaptedAttention(nn.Module):
    """An attention with adapters behind it, called as the attention is.

    Args:
        attention: the base's, which stays as it is.
        width: of what it gives.
        settings: how many adapters and how they are wired.
    """

    def __init__(self, attention: nn.Module, width: int, settings: SerialAdapter) -> None:
        super().__init__()
        self.attention = attention
        narrow = max(width // settings.reduction, 1)
        self.adapters = nn.ModuleList([Bottleneck(width, narrow) for _ in range(settings.count)])
        self.paper = settings.wiring == "paper"
        self._entered: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The attention's outputs, the first of which went through the adapters."""
        outputs = self.attention(*args, **kwargs)
        attended = outputs[0] if isinstance(outputs, tuple) else outputs
        skipped = attended + self._residual(kwargs) if self.paper else attended
        states = attended
        for adapter in self.adapters:
            states = skipped + adapter(states)
        return (states, *outputs[1:]) if isinstance(outputs, tuple) else states

    def _residual(self, inputs: dict[str, Any]) -> torch.Tensor:
        """What the layer adds to the attention afterwards: the attention's input before positions are added."""
        entered = inputs.get("hidden_states", self._entered)
        self._entered = None
        assert isinstance(entered, torch.Tensor)
        return entered

    def remember(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps what a layer gets, for an attention that is given it only with positions added."""
        self._entered = args[0] if args else kwargs["hidden_states"]


def insert(model: Any, settings: SerialAdapter, generator: torch.Generator) -> list[str]:
    """Puts adapters behind attentions, in place; returns the names of these attentions.

    Raises:
        RecipeError: a place matches nothing, the model has adapters already, or it has no "paper" wiring.
    """
    if adapted(model):
        raise RecipeError(type(model).__name__, "has serial adapters already", "insert them into a fresh base")
    if settings.wiring == "paper" and getattr(model.config, "pre_norm", False):
        raise RecipeError(
            "wiring 'paper'", "is defined for layers whose norm comes last, and this model's comes first",
            "use the wiring 'no-op'",
        )  # fmt: skip
    chosen = _chosen(attention_layers(model), settings.places)
    for each in chosen:
        layer, child = model.get_submodule(each.layer), each.name.rpartition(".")[2]
        wrapper = AdaptedAttention(getattr(layer, child), each.width, settings)
        for adapter in wrapper.adapters:
            assert isinstance(adapter, Bottleneck)
            adapter.draw(generator, no_op=not wrapper.paper)
        if wrapper.paper and isinstance(wrapper.attention, nn.MultiheadAttention):
            # It is the first of Mask2Former's decoder layer, so what the layer gets is its residual.
            layer.register_forward_pre_hook(wrapper.remember, with_kwargs=True)
        setattr(layer, child, wrapper.to(model.device))
    return [each.name for each in chosen]


def _chosen(layers: Sequence[AttentionLayer], places: Sequence[str]) -> list[AttentionLayer]:
    for place in places:
        if not any(f".{each.name}".endswith(f".{place}") for each in layers):
            ends = {each.name.rpartition(".")[2] for each in layers}
            hint = nearest(place, [*ends, *(each.name for each in layers)]) or f"use some of {', '.join(sorted(ends))}"
            raise RecipeError(f"place {place!r}", "matches no attention of the model", hint)
    return [each for each in layers if not places or any(f".{each.name}".endswith(f".{place}") for place in places)]


def adapted(model: nn.Module) -> dict[str, AdaptedAttention]:
    """The attentions with adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedAttention)}


def inserted(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' own parameters, by name."""
    found = {}
    for place, wrapper in adapted(model).items():
        found.update({f"{place}.adapters.{name}": value for name, value in wrapper.adapters.named_parameters()})
    return found


def merge(model: nn.Module) -> NoReturn:
    """Refuses: a ReLU between two matrices is no change of a matrix.

    Raises:
        AdapterError: always.
    """
    count = sum(len(each.adapters) for each in adapted(model).values())
    raise AdapterError(
        f"{count} serial adapters", "have a ReLU between their matrices and cannot be merged into the base's weights",
        "keep the model as it is, with its adapters, or train LoRA",
    )  # fmt: skip
