"""The model's own forward pass with the weights of one block in memory at a time.

Blocks are loaded just before they run and released just after, so peak memory is the embedding, one block and its
activations. A `Visitor` sees every block and may change its weights before its outputs are computed: that is how
calibration, pruning and quantization walk through a model larger than memory. Only public hooks are used, so what
runs is exactly the transformers implementation of the architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featherweight.core.architecture import EMBEDDING, HEAD, block_index, block_part
from featherweight.core.lazy import torch
from featherweight.core.memory import give_back_memory
from featherweight.core.model import Model

Compute = Callable[..., "torch.Tensor"]
"""`compute(states)` runs the present block on other hidden states [rows, tokens, hidden] of the same tokens, with the
masks and positions of this pass; `compute(states, other)` runs another block instead."""


class Visitor:
    """What `stream` calls on its way; every method may be left out.

    Attributes:
        twice: run each block twice, first to look (outputs are thrown away), then, after `between`, to compute.
            Needed when `rows` splits the batch and a decision needs all of it.
    """

    twice = False

    def enter(self, index: int, block: torch.nn.Module) -> None:
        """Block `index` has its weights and is about to run; hooks registered here go with it."""

    def between(self, index: int, block: torch.nn.Module) -> None:
        """Only with `twice`: the first run of all rows is over, the second is to come."""

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Block `index` has run; `inputs` and `outputs` are [rows, tokens, hidden]."""

    def replay(self, index: int, block: torch.nn.Module, compute: Compute) -> None:
        """Block `index` has left and still has its weights: what would it, or another block, make of other states?"""


def stream(
    model: Model,
    tokens: torch.Tensor,
    visitor: Visitor | None = None,
    rows: int | None = None,
    device: str = "cpu",
    advance: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Final hidden states, float32 [rows, tokens, hidden], after the last norm.

    Args:
        model: the model; its tensors are read once each.
        tokens: token ids, int64 [rows, tokens].
        visitor: sees every block.
        rows: rows that go through a block together; None = all of them.
        device: where blocks run; hidden states stay there.
        advance: called once a block, for progress.
    """
    module = model.skeleton()
    by_block = _load_outside(module, model, device)
    blocks = module.model.layers
    for index, block in enumerate(blocks):
        _prepare(block, index, model, by_block[index], visitor or Visitor(), rows, device, advance)
    with torch.no_grad():
        return module.model(input_ids=tokens.to(device), use_cache=False).last_hidden_state


def head_weight(model: Model) -> torch.Tensor:
    """The matrix that turns final hidden states into logits, float32 [vocab, hidden]."""
    return model.tensor(EMBEDDING if model.architecture.tied else HEAD)


def _load_outside(module: Any, model: Model, device: str) -> dict[int, list[str]]:
    """Loads what belongs to no block except the head; returns the parameter names of each block."""
    by_block: dict[int, list[str]] = {index: [] for index in range(model.architecture.blocks)}
    state = {}
    for name in model.entries:
        index = block_index(name)
        if index is not None:
            by_block[index].append(name)
        elif name != HEAD:
            state[name] = model.tensor(name).to(device)
    module.load_state_dict(state, strict=False, assign=True)
    module.model.rotary_emb.to(device)
    # Looked up once and never again: often the largest tensor of all.
    module.model.embed_tokens.register_forward_hook(_release)
    return by_block


def _release(module: torch.nn.Module, inputs: Any, outputs: Any) -> None:
    module.to("meta")


def _prepare(
    block: Any,
    index: int,
    model: Model,
    names: list[str],
    visitor: Visitor,
    rows: int | None,
    device: str,
    advance: Callable[[], None] | None,
) -> None:
    original = block.forward

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        block.load_state_dict({block_part(name): model.tensor(name).to(device) for name in names}, assign=True)
        visitor.enter(index, block)
        count, inputs = hidden.shape[0], (hidden, *args)
        if visitor.twice:
            in_rows(original, count, rows, inputs, kwargs, keep=False)
            visitor.between(index, block)
        outputs = in_rows(original, count, rows, inputs, kwargs)
        visitor.leave(index, block, hidden, outputs)

        def compute(states: torch.Tensor, other: Any = None) -> torch.Tensor:
            return in_rows(other.forward if other else original, count, rows, (states, *args), kwargs)

        visitor.replay(index, block, compute)
        block.to("meta")
        give_back_memory()
        if advance:
            advance()
        return outputs

    block.forward = forward


def in_rows(
    run: Callable[..., Any], count: int, rows: int | None, args: Any, kwargs: dict[str, Any], keep: bool = True
) -> Any:
    """Calls a module on a few rows at a time, slicing every argument that has one entry a row.

    Args:
        run: the module's forward.
        count: number of rows.
        rows: rows at a time; None = all of them.
        args: positional arguments for all rows.
        kwargs: named arguments for all rows.
        keep: whether the results are wanted.

    Returns:
        What all rows together would give: a tensor, a tuple of tensors, or None.
    """
    if rows is None or rows >= count:
        return run(*args, **kwargs)
    joined = None
    for first in range(0, count, rows):
        last = min(first + rows, count)
        some = {key: _part(value, count, first, last) for key, value in kwargs.items()}
        output = run(*_part(tuple(args), count, first, last), **some)
        if keep:
            joined = _joined(joined, output, count, first, last)
    return joined


def _part(value: Any, count: int, first: int, last: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_part(each, count, first, last) for each in value)
    if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == count:
        return value[first:last]
    return value


def _joined(joined: Any, output: Any, count: int, first: int, last: int) -> Any:
    """The results of some rows written among those of all, so that no row is ever in memory twice."""
    if isinstance(output, tuple):
        before = joined or (None,) * len(output)
        return tuple(_joined(*pair, count, first, last) for pair in zip(before, output, strict=True))
    if not isinstance(output, torch.Tensor):
        return output
    if joined is None:
        joined = output.new_empty(count, *output.shape[1:])
    joined[first:last] = output
    return joined
