"""Donors: what a graft is taken from. Each tells its layers, the pooled features of some, and gives a trunk.

Three kinds, one set of methods: a causal language model of ours (walked block by block, so that one block is in memory
at a time), a transformers model with a list of blocks, and any `torch.nn` network that can be traced. A donor's own
tensors are never written to; its trunk is a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from featherweight.core.errors import DataError, RecipeError
from featherweight.core.labelled import Labelled
from featherweight.core.model import Model, copy_companions
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.stream import Visitor, stream
from featherweight.models.graph import Network, cut, describe, layer_nodes, traced
from featherweight.models.pooling import Pool, pooled
from featherweight.models.trunk import block_list, build_trunk, cut_config, cut_trunk

Layer = int | str
Inputs = dict[str, torch.Tensor]
Features = dict[Layer, torch.Tensor]
Trunk = tuple[torch.nn.Module, dict[str, Any]]

_BATCH = 16


class Donor(ABC):
    """What a graft can be taken from.

    Attributes:
        of_text: whether its inputs are texts.
        layers: everything that can be chosen, shallow first.
    """

    of_text: bool
    layers: Sequence[Layer]

    @abstractmethod
    def inputs(self, data: Labelled, length: int) -> Inputs:
        """The data as this donor reads it, texts cut to `length` tokens."""

    @abstractmethod
    def features(
        self, inputs: Inputs, layers: Sequence[Layer], pool: Pool, advance: Callable[[], None] | None = None
    ) -> Features:
        """Pooled features of each layer, float32 [rows, width], in one pass over the donor."""

    @abstractmethod
    def trunk(self, layers: Sequence[Layer], inputs: Inputs) -> Trunk:
        """Everything up to the deepest of the layers, copied, and its description."""

    @property
    def last(self) -> Layer:
        """The layer whose features the whole donor offers."""
        return self.layers[-1]

    @abstractmethod
    def parameters(self) -> int:
        """How many weights the donor has, its own head included."""

    def always_kept(self) -> list[int]:
        """Tokens that a trimmed vocabulary keeps whatever the texts hold."""
        return []

    def write_companions(self, folder: Path) -> None:  # noqa: B027
        """Writes what is needed beside the weights, such as a tokenizer."""

    def depth(self, layer: Layer) -> int:
        """Position of a layer, the shallowest being 0.

        Raises:
            RecipeError: the donor has no such layer.
        """
        if layer not in self.layers:
            some = [*map(str, self.layers[:4]), "...", str(self.layers[-1])]
            raise RecipeError(f"layer {layer!r}", "is none of the donor's", f"use some of {', '.join(some)}")
        return self.layers.index(layer)


class LanguageModelDonor(Donor):
    """A causal language model; layer l is what l blocks have computed."""

    of_text = True

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model, self.device = model, device
        self.layers = range(1, model.architecture.blocks + 1)

    def inputs(self, data: Labelled, length: int) -> Inputs:
        return tokens_of(self.model.tokenizer, data, length)

    def features(
        self, inputs: Inputs, layers: Sequence[Layer], pool: Pool, advance: Callable[[], None] | None = None
    ) -> Features:
        deepest = max(self.depth(layer) for layer in layers) + 1
        model = slice_model(self.model, Keep(blocks=range(deepest)))
        visitor = _Pooling({int(layer) for layer in layers if layer != len(self.layers)}, pool, inputs)
        # Padding lies on the right, where a causal model's earlier positions do not see it.
        final = stream(model, inputs["input_ids"], visitor, _BATCH, self.device, advance)
        if deepest == len(self.layers):
            visitor.found[deepest] = visitor.pooled(final)
        return {layer: visitor.found[int(layer)] for layer in layers}

    def always_kept(self) -> list[int]:
        return list(self.model.tokenizer.all_special_ids)

    def write_companions(self, folder: Path) -> None:
        copy_companions(self.model.folder, folder)

    def trunk(self, layers: Sequence[Layer], inputs: Inputs) -> Trunk:
        return model_trunk(self.model, int(max(layers)), len(self.layers))

    def parameters(self) -> int:
        return self.model.parameters


class _Pooling(Visitor):
    """Pools what some blocks give."""

    def __init__(self, layers: set[int], pool: Pool, inputs: Inputs) -> None:
        self.layers, self.pool, self.mask = layers, pool, inputs["attention_mask"]
        self.found: Features = {}

    def pooled(self, states: torch.Tensor) -> torch.Tensor:
        return pooled(states.float(), self.pool, self.mask.to(states.device)).cpu()

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        if index + 1 in self.layers:
            self.found[index + 1] = self.pooled(outputs)


def model_trunk(model: Model, blocks: int, of: int) -> Trunk:
    """The first blocks of a language model in float32, without head; with the final norm only if they are all.

    Args:
        model: has at least that many blocks.
        blocks: how many the trunk has.
        of: how many the donor has.
    """
    absent = [] if blocks == of else ["norm"]
    description = {"kind": "transformers", "config": cut_config(model.hf_config(), blocks), "absent": absent}
    trunk = build_trunk(description)
    part = slice_model(model, Keep(blocks=range(blocks)))
    trunk.load_state_dict({name: part.tensor(f"model.{name}") for name in trunk.state_dict()})
    return trunk.eval().requires_grad_(False), description


class TransformersDonor(Donor):
    """A transformers model made of equal blocks, of texts or of images; layer l is what l blocks have computed.

    Args:
        module: the model, with or without a head.
        tokenizer: for texts; None = its inputs are images.
    """

    def __init__(self, module: Any, tokenizer: Any = None) -> None:
        self.module, self.base, self.tokenizer = module, module.base_model, tokenizer
        self.of_text = self.base.main_input_name == "input_ids"
        self.layers = range(1, block_list(self.base)[1] + 1)

    def inputs(self, data: Labelled, length: int) -> Inputs:
        if not self.of_text:
            return images_of(data)
        if self.tokenizer is None:
            raise DataError(type(self.module).__name__, "reads texts and no tokenizer was given", "give its tokenizer")
        return tokens_of(self.tokenizer, data, length)

    def features(
        self, inputs: Inputs, layers: Sequence[Layer], pool: Pool, advance: Callable[[], None] | None = None
    ) -> Features:
        deepest = max(self.depth(layer) for layer in layers) + 1
        found: dict[Layer, list[torch.Tensor]] = {layer: [] for layer in range(1, deepest + 1) if layer in layers}
        with evaluating(self.base) as base:
            for batch in batches(inputs):
                states = base(**batch, output_hidden_states=True).hidden_states
                for layer, rows in found.items():
                    rows.append(pooled(states[int(layer)].float(), pool, batch.get("attention_mask")))
        return {layer: torch.cat(rows) for layer, rows in found.items()}

    def always_kept(self) -> list[int]:
        return list(self.tokenizer.all_special_ids)

    def write_companions(self, folder: Path) -> None:
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)

    def trunk(self, layers: Sequence[Layer], inputs: Inputs) -> Trunk:
        with evaluating(self.base) as base:
            return cut_trunk(base, int(max(layers)), next(batches(inputs)))

    def parameters(self) -> int:
        return sum(each.numel() for each in self.module.parameters())


class NetworkDonor(Donor):
    """A `torch.nn` network of images; a layer is the name of one of its modules."""

    of_text = False

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        with evaluating(module):  # the trace takes the path of inference
            self.graph = traced(module)
        self.layers = list(layer_nodes(self.graph))

    @property
    def last(self) -> Layer:
        """What its last linear layer reads: that layer itself only tells the donor's own classes apart."""
        linear = [name for name in self.layers if isinstance(self.module.get_submodule(str(name)), torch.nn.Linear)]
        return self.layers[max(self.layers.index(linear[-1]) - 1, 0)] if linear else self.layers[-1]

    def inputs(self, data: Labelled, length: int) -> Inputs:
        return images_of(data)

    def features(
        self, inputs: Inputs, layers: Sequence[Layer], pool: Pool, advance: Callable[[], None] | None = None
    ) -> Features:
        for layer in layers:
            self.depth(layer)
        found: list[list[torch.Tensor]] = [[] for _ in layers]
        with evaluating(cut(self.graph, [str(layer) for layer in layers])) as network:
            for batch in batches(inputs):
                for rows, states in zip(found, network(batch["pixel_values"]), strict=True):
                    rows.append(pooled(states.float(), pool))
        return {layer: torch.cat(rows) for layer, rows in zip(layers, found, strict=True)}

    def trunk(self, layers: Sequence[Layer], inputs: Inputs) -> Trunk:
        part = cut(self.graph, [str(layer) for layer in layers])
        description = describe(part)
        network = Network(description)
        network.load_state_dict(part.state_dict())
        return network.eval().requires_grad_(False), description

    def parameters(self) -> int:
        return sum(each.numel() for each in self.module.parameters())


def donor_of(donor: Any, tokenizer: Any = None, device: str = "cpu") -> Donor:
    """A donor from a `Model` of ours, a transformers model or a `torch.nn` network."""
    if isinstance(donor, Donor):
        return donor
    if isinstance(donor, Model):
        return LanguageModelDonor(donor, device)
    if isinstance(donor, transformers.PreTrainedModel):
        return TransformersDonor(donor, tokenizer)
    if isinstance(donor, torch.nn.Module):
        return NetworkDonor(donor)
    raise RecipeError(
        f"donor of the type {type(donor).__name__}", "is no model",
        "give a featherweight Model, a transformers model or a torch.nn.Module",
    )  # fmt: skip


@contextmanager
def evaluating(module: Any) -> Iterator[Any]:
    """The module in evaluation mode and without gradients; modes are put back afterwards."""
    modes = {each: each.training for each in module.modules()}
    try:
        with torch.no_grad():
            yield module.eval()
    finally:
        for each, mode in modes.items():
            each.training = mode


def batches(inputs: Inputs, rows: int = _BATCH) -> Iterator[Inputs]:
    """Some rows at a time."""
    count = len(next(iter(inputs.values())))
    for first in range(0, count, rows):
        yield {name: each[first : first + rows] for name, each in inputs.items()}


def tokens_of(tokenizer: Any, data: Labelled, length: int) -> Inputs:
    """Tokens of the texts, padded on the right, and the mask: int64 [rows, positions]."""
    if not isinstance(data.inputs, Sequence):
        raise DataError(data.source, "holds tensors, and the donor reads texts", "give texts")
    ids = [list(tokenizer(text, truncation=True, max_length=length)["input_ids"])[:length] for text in data.texts]
    for text, each in zip(data.texts, ids, strict=True):
        if not each:
            raise DataError(data.source, f"has a text without tokens, {text[:20]!r}", "remove it")
    width = max(map(len, ids))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return {
        "input_ids": torch.tensor([each + [padding] * (width - len(each)) for each in ids]),
        "attention_mask": torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in ids]),
    }


def images_of(data: Labelled) -> Inputs:
    """Images as float32 [rows, channels, height, width]."""
    if not isinstance(data.inputs, torch.Tensor):
        raise DataError(data.source, "holds texts, and the donor reads images", "give a tensor of images")
    return {"pixel_values": data.inputs.float()}
