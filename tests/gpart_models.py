"""Tiny models with a GPart adapter, for the tests of GPart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peft
import torch
import transformers

from featherweight.models.gpart import GPartConfig
from featherweight.models.gpart_layer import GPartLayer, Stretch

IDS = torch.arange(24).view(2, 12)
ALL = "all-linear"


def llama(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, **changes,
    }  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()


def adapted(random: bool = True, base: Any = None, **fields: Any) -> Any:
    """A tiny Llama with a GPart adapter of 300 numbers, random ones where asked."""
    config = GPartConfig(**{"target_modules": ALL, "dimension": 300, **fields})
    wrapped = peft.get_peft_model(llama() if base is None else base, config)
    if random:
        with torch.no_grad():
            theta_of(wrapped).normal_(generator=torch.Generator().manual_seed(1))
    return wrapped


def theta_of(wrapped: Any, name: str = "default") -> torch.nn.Parameter:
    return wrapped.base_model.gpart_theta[name]


def layers_of(wrapped: Any) -> Iterator[GPartLayer]:
    return (each for each in wrapped.modules() if isinstance(each, GPartLayer))


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module(IDS).logits


def linears(module: Any) -> list[tuple[str, Any]]:
    """Linears that "all-linear" stands for."""
    found = ((name, each) for name, each in module.named_modules() if isinstance(each, torch.nn.Linear))
    return [(name, each) for name, each in found if name != "lm_head"]


def stretch_of(layer: GPartLayer) -> Stretch:
    return layer.gpart_stretches["default"]
