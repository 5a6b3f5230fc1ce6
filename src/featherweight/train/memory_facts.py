"""Bytes of everything that a training step holds: counted where they can be counted, measured on one block where not.

The measured step is that of the model's first block with everything around it, on random tokens of the real shape, so
it costs a share of a real step and a share of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from featherweight.core.architecture import block_index
from featherweight.core.attach import without_renamings
from featherweight.core.batch import Batch
from featherweight.core.formats import FLOATS, get
from featherweight.core.lazy import torch
from featherweight.core.memory import forget_peak, give_back_memory, peak_memory, resident_memory
from featherweight.core.model import Model
from featherweight.train.chunked_head import LOGITS, loss_of
from featherweight.train.frozen import PIECE
from featherweight.train.frozen_module import frozen_module, matrices
from featherweight.train.low_rank import fused
from featherweight.train.memory_terms import DENSE, DISK, STORED, Facts, Shape
from featherweight.train.recompute import recomputed

_WORD = 4  # bytes of a float32: adapters, gradients, states and the head's loss
_ADAM = 2  # states a parameter
_LOGIT_COPIES = 3  # logits, their softmax and its gradient


def facts_of(
    model: Model,
    method: Any,
    shape: Shape,
    allowed: Sequence[str] = (),
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Facts:
    """Counts and measures.

    Args:
        model: the base.
        method: gives `peft_config(model)` and `step_loss(adapted, loss, generator)`.
        shape: rows that pass the model at once.
        allowed: formats to which the base may be rounded.
        device: where it trains; of a GPU, only its own memory counts.
        dtype: in which the base computes; None = float32.
    """
    give_back_memory()
    resident, dtype = resident_memory(device), dtype or torch.float32
    tokens, hidden = shape.rows * shape.length, model.architecture.sizes["hidden"]
    vocabulary = model.settings["vocab_size"]
    trained = trained_parameters(model, method)
    pieces = _WORD * (2 * LOGITS + 3 * tokens * hidden)
    block, outside, working = _measured(model, method, shape, pieces, device, dtype)
    return Facts(
        resident=resident,
        weights=base_bytes(model, allowed, dtype.itemsize),
        adapter=_WORD * trained,
        optimizer=_ADAM * _WORD * trained,
        block=block,
        outside=outside,
        inputs=dtype.itemsize * tokens * hidden,
        blocks=model.architecture.blocks,
        logits=_LOGIT_COPIES * _WORD * tokens * vocabulary,
        pieces=pieces,
        dense=2 * _WORD * max(min(PIECE, math.prod(model.entries[name].shape)) for name in matrices(model)),
        working=working,
        device=device,
    )


def base_bytes(model: Model, allowed: Sequence[str] = (), word: int = _WORD) -> dict[str, int]:
    """Bytes that the frozen weights keep in memory, by the way they are kept; a dense number takes `word`."""
    small = set(matrices(model))
    outside = sum(word * math.prod(entry.shape) for name, entry in model.entries.items() if name not in small)
    stored = {name: model.entries[name].nbytes for name in small}
    found = {
        DENSE: sum(word * math.prod(entry.shape) for entry in model.entries.values()),
        STORED: outside + sum(stored.values()),
        DISK: outside,
    }
    for name in allowed:
        plain = [each for each in model.architecture.linears() if model.entries[each].format in FLOATS]
        rounded = {each: get(name).tensor_bytes(model.entries[each].shape) for each in plain}
        found[name] = outside + sum({**stored, **rounded}.values())
    return found


def trained_parameters(model: Model, method: Any) -> int:
    """Numbers that the method trains on the whole model, which need not be in memory for that."""
    import peft

    with without_renamings():
        adapted = peft.get_peft_model(model.skeleton(), method.peft_config(model))
    return sum(each.numel() for each in adapted.parameters() if each.requires_grad)


def first_block(model: Model) -> Model:
    """The model without all blocks but the first."""
    dropped = [name for name in model.entries if (block_index(name) or 0) > 0]
    config: dict[str, Any] = {"num_hidden_layers": 1}
    if isinstance(model.config.get("layer_types"), list):
        config["layer_types"] = model.config["layer_types"][:1]
    return model.with_changes(drop=dropped, config=config)


def _measured(
    model: Model, method: Any, shape: Shape, pieces: int, device: str, dtype: torch.dtype
) -> tuple[int, int, int]:
    """Bytes that the first block saves, that the rest saves, and that a step takes beyond them and the head."""
    adapted = _one_block(model, method, device, dtype)
    batch = _random_batch(shape, model.settings["vocab_size"]).to(device)
    trained = [each for each in adapted.parameters() if each.requires_grad]
    [block] = adapted.get_base_model().model.layers

    def step() -> None:
        method.step_loss(adapted, lambda: loss_of(adapted, batch)[0], torch.Generator().manual_seed(0)).backward()

    with fused(adapted):
        inside, everything = saved_bytes(adapted, block, step)
        for each in trained:
            each.grad = None
        give_back_memory()
        before, known = resident_memory(device), forget_peak(device)
        with recomputed([block]):
            step()
    grown = peak_memory(device) - before if known else 0
    gradients = sum(_WORD * each.numel() for each in trained)
    outside = max(0, everything - inside)
    # At least as much as gradients of a block's activations take: what is free in the heap hides growth.
    return inside, outside, max(inside, grown - inside - outside - pieces - gradients)


def _one_block(model: Model, method: Any, device: str, dtype: torch.dtype) -> Any:
    import peft

    small = first_block(model)
    module = frozen_module(small, STORED, device=device, dtype=dtype)
    # Later blocks get an input that needs a gradient, so this one does too.
    anchor = torch.zeros((), requires_grad=True, device=device, dtype=dtype)
    module.get_input_embeddings().register_forward_hook(lambda layer, args, output: output + anchor)
    with without_renamings():
        try:
            config = method.peft_config(small)
            return peft.get_peft_model(module, config).train()
        except Exception:  # it wants modules of other blocks: an adapter on every linear is the most that can be
            config = peft.LoraConfig(r=8, target_modules="all-linear")
            return peft.get_peft_model(module, config).train()


def _random_batch(shape: Shape, vocabulary: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (shape.rows, shape.length), generator=generator)
    positions = torch.arange(shape.length).expand_as(ids)
    segments = torch.zeros_like(ids)
    if shape.packed:
        segments[:, shape.length // 2 :] = 1
    return Batch(ids, ids, positions, segments)


def saved_bytes(module: nn.Module, block: nn.Module, step: Callable[[], None]) -> tuple[int, int]:
    """Bytes saved for the backward pass by a block and by everything; parameters are left out."""
    parameters = {each.untyped_storage().data_ptr() for each in module.parameters()}
    inside: dict[int, int] = {}
    everything: dict[int, int] = {}

    def counting(found: dict[int, int]) -> Any:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    with _inside(block, lambda: counting(inside)), counting(everything):
        step()
    return sum(inside.values()), sum({**everything, **inside}.values())


@contextmanager
def _inside(block: Any, entered: Callable[[], Any]) -> Iterator[None]:
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with entered():
            return original(*args, **kwargs)

    block.forward = forward
    try:
        yield
    finally:
        del block.forward
