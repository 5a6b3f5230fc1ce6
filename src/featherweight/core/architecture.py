"""What each supported architecture is made of: which linears share an input, what each dimension counts.

The facts are in `architectures.toml`; this file reads them and answers questions about one model's configuration.
It knows nothing of weights.
"""

from __future__ import annotations

import functools
import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from featherweight.core.errors import UnsupportedArchitecture

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
_BLOCKS = "model.layers."


@dataclass(frozen=True)
class Reads:
    """Linears of a block that read the same input, and what produces that input.

    Exactly one of `norm` (module name in the block) and `rows` (a linear of the block whose rows are the input's
    channels) is given.
    """

    linears: tuple[str, ...]
    norm: str | None
    rows: str | None


@dataclass(frozen=True)
class Architecture:
    """The structure of one model, from its configuration.

    Attributes:
        variant: prefix of the model type where the class is one of ours, which stock tools do not know; else empty.
    """

    model_type: str
    variant: str
    class_name: str
    gguf: str
    reads: tuple[Reads, ...]
    linear_axes: Mapping[str, tuple[str, str]]
    norm_offset: float
    rotary_permuted: bool
    embedding_scaled: bool
    blocks: int
    sizes: Mapping[str, int]
    head_dim: int
    tied: bool

    @property
    def kv_heads(self) -> int:
        return self.sizes["kv"] // self.head_dim

    @property
    def heads_a_group(self) -> int:
        return self.sizes["query"] // self.sizes["kv"]

    def size(self, axis: str) -> int:
        """How many entries an axis has; "a+b" counts both."""
        return sum(self.sizes[part] for part in axis.split("+"))

    def linear(self, block: int, module: str) -> str:
        """Weight name of a linear of a block."""
        return f"{_BLOCKS}{block}.{module}.weight"

    def linears(self) -> list[str]:
        """Weight names of all linears of all blocks, in the order of computation."""
        return [
            self.linear(block, module) for block in range(self.blocks) for read in self.reads for module in read.linears
        ]

    def quantizable(self) -> list[str]:
        """Weight names that a quantizer may round: the embedding, all linears, the untied head."""
        return [EMBEDDING, *self.linears(), *([] if self.tied else [HEAD])]

    def axes(self, name: str, dimensions: int) -> tuple[str, ...]:
        """What each dimension of the parameter `name` counts."""
        if name in (EMBEDDING, HEAD):
            return ("vocab", "hidden")
        module, _, leaf = block_part(name).rpartition(".")
        if module in self.linear_axes:
            return self.linear_axes[module] if leaf == "weight" else self.linear_axes[module][:1]
        return ("head",) if module.startswith("self_attn.") else ("hidden",) * dimensions


def block_index(name: str) -> int | None:
    """The block that a parameter belongs to, or None: 'model.layers.7.mlp.up_proj.weight' -> 7."""
    if not name.startswith(_BLOCKS):
        return None
    return int(name[len(_BLOCKS) :].split(".", 1)[0])


def block_part(name: str) -> str:
    """A parameter's name inside its block: 'model.layers.7.mlp.up_proj.weight' -> 'mlp.up_proj.weight'."""
    return name[len(_BLOCKS) :].split(".", 1)[1] if name.startswith(_BLOCKS) else name


def in_block(name: str, block: int) -> str:
    """The same parameter in another block."""
    return f"{_BLOCKS}{block}.{block_part(name)}"


@functools.cache
def _facts() -> dict[str, Any]:
    text = resources.files("featherweight.core").joinpath("architectures.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def supported() -> list[str]:
    """Model types that featherweight knows."""
    return sorted(_facts()["architectures"])


def variant_of(model_type: str) -> tuple[str, str]:
    """The prefix of a model type whose class is one of ours, or nothing, and the stock model type."""
    prefix = next((each for each in _facts()["variants"] if model_type.startswith(each)), "")
    return prefix, model_type.removeprefix(prefix)


def register_variant(model_type: str) -> None:
    """Makes the classes of a model type known to transformers, if they are ours; any other one is left alone."""
    prefix, _ = variant_of(model_type)
    if prefix:
        importlib.import_module(_facts()["variants"][prefix])


def require_known(model_type: str, source: str) -> Mapping[str, Any]:
    """The facts about a model type.

    Raises:
        UnsupportedArchitecture: `model_type` has no entry, with the list of those that have one.
    """
    facts = _facts()["architectures"].get(variant_of(model_type)[1])
    if facts is None:
        raise UnsupportedArchitecture(
            source,
            f"the architecture {model_type!r} is not supported",
            f"use one of {', '.join(supported())}, or add an entry to architectures.toml",
        )
    return facts


def describe(config: Mapping[str, Any], source: str = "model") -> Architecture:
    """The architecture of a model with this configuration, defaults filled in (`Model.settings`)."""
    model_type = str(config.get("model_type", "missing"))
    facts = require_known(model_type, source)
    layout = _facts()["layouts"][facts["layout"]]
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    reads = tuple(
        Reads(tuple(read["linears"]), facts["norms"].get(read.get("norm")), read.get("rows"))
        for read in layout["reads"]
    )
    variant, stock = variant_of(model_type)
    return Architecture(
        model_type=stock,
        variant=variant,
        class_name=variant.title().replace("_", "") + facts["class"],
        gguf=facts["gguf"],
        reads=reads,
        linear_axes={name: (axes[0], axes[1]) for name, axes in layout["parameters"].items()},
        norm_offset=float(facts.get("norm_offset", 0.0)),
        rotary_permuted=bool(facts.get("rotary_permuted", False)),
        embedding_scaled=bool(facts.get("embedding_scaled", False)),
        blocks=int(config["num_hidden_layers"]),
        sizes={
            "hidden": int(config["hidden_size"]),
            "query": heads * head_dim,
            "kv": int(config.get("num_key_value_heads") or heads) * head_dim,
            "ffn": int(config["intermediate_size"]),
            "vocab": int(config["vocab_size"]),
            "head": head_dim,
        },
        head_dim=head_dim,
        tied=bool(config.get("tie_word_embeddings", False)),
    )
