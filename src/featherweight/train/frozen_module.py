"""A model's module whose matrices are frozen in a small form, made without the dense model ever being in memory.

Linear layers and embeddings of the plain torch classes become `FrozenLinear` and `FrozenEmbedding`; everything else
(norms, biases, fused experts, embeddings of classes that compute something) is loaded as float32.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.checkpoint import Entry
from featherweight.core.errors import RecipeError
from featherweight.core.formats import FLOATS, get
from featherweight.core.lazy import torch
from featherweight.core.memory import give_back_memory
from featherweight.core.model import Model
from featherweight.train.frozen import Frozen, FrozenEmbedding, FrozenLinear, kept, spilled
from featherweight.train.memory_terms import DENSE, DISK, STORED
from featherweight.train.spill import Spill


def frozen_module(
    model: Model, base: str, spill: Spill | None = None, device: str = "cpu", dtype: torch.dtype | None = None
) -> Any:
    """The transformers module of a model, in evaluation mode.

    Args:
        model: its tensors are read once each.
        base: "dense" = float32 in memory; "stored" = in memory in the bytes of the model; "disk" = in a temporary file;
            or the name of a format onto which the linears of the blocks are rounded, which changes what is trained on.
        spill: the temporary file, for "disk".
        device: where it computes.
        dtype: in which it computes; None = float32.

    Raises:
        RecipeError: the base is none of these.
    """
    if base == DENSE:
        return model.module(dtype).to(device)
    if base not in (STORED, DISK):
        model = rounded(model, base)
    if base == DISK and spill is None:
        raise RecipeError("base 'disk'", "needs a temporary file", "give one")
    module = model.skeleton()
    names = _replaced(module, model)
    small = {name: _small(model.entries[name], spill if base == DISK else None, device) for name in names}
    _put(module, model, small, dtype or torch.float32)
    give_back_memory()
    return module.to(device).eval().requires_grad_(False)


def rounded(model: Model, name: str) -> Model:
    """The model with the linears of its blocks rounded to nearest onto a format, where they are plain numbers."""
    form = get(name)
    changed = {}
    for linear in model.architecture.linears():
        entry = model.entries[linear]
        if entry.format in FLOATS:
            form.require(entry.shape, linear)
            changed[linear] = form.fit(model.tensor(linear))
    return model.with_changes(changed)


def _small(entry: Entry, spill: Spill | None, device: str) -> Frozen:
    return kept(entry, device) if spill is None else spilled(entry, spill, device)


def matrices(model: Model) -> list[str]:
    """Parameter names of the matrices that take a small form."""
    return _replaced(model.skeleton(), model)


def _replaced(module: Any, model: Model) -> list[str]:
    layers = module.named_modules()
    plain = [f"{path}.weight" for path, layer in layers if type(layer) in (nn.Linear, nn.Embedding)]
    return [name for name in plain if name in model.entries]


def _put(module: Any, model: Model, small: dict[str, Frozen], dtype: torch.dtype) -> None:
    tied = small.get(EMBEDDING) if model.architecture.tied else None
    state = {name: model.tensor(name).to(dtype) for name in model.entries if name not in small}
    if tied is not None:
        small = {**small, HEAD: tied}
    elif model.architecture.tied:
        state[HEAD] = state[EMBEDDING]
    for name, frozen in small.items():
        path = name.removesuffix(".weight")
        bias = state.pop(f"{path}.bias", None)
        old = module.get_submodule(path)
        new = FrozenEmbedding(frozen, dtype) if isinstance(old, nn.Embedding) else FrozenLinear(frozen, bias)
        module.set_submodule(path, new)
    module.load_state_dict(state, strict=False, assign=True)
