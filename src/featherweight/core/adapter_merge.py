"""A model with a LoRA adapter in its weights: W + scale * B A, in float32, one matrix at a time."""

from __future__ import annotations

import functools

from featherweight.core.adapter_folder import PREFIX, Adapter, LoraFactors
from featherweight.core.architecture import HEAD
from featherweight.core.checkpoint import Entry
from featherweight.core.errors import AdapterError
from featherweight.core.lazy import torch
from featherweight.core.model import Model


def merged(adapter: Adapter, model: Model) -> Model:
    """The model with the adapter in it; changed matrices become float32, the others stay as they are.

    Raises:
        AdapterError: the adapter changes a head that the model shares with its embedding, or holds trained modules.
    """
    require_separable(adapter, model)
    changed = {}
    for module, factors in adapter.factors.items():
        name = f"{module}.weight"
        entry = model.entries[name]
        load = functools.partial(_changed, model, name, factors, module in adapter.embeddings)
        changed[name] = Entry("F32", entry.shape, 4 * entry.shape[0] * entry.shape[1], load)
    return model.with_changes(changed)


def require_separable(adapter: Adapter, model: Model) -> None:
    """Refuses an adapter that is more than a change of matrices of their own.

    What PEFT saves beside the factors of an embedding, the embedding itself, does no harm where it is the model's.

    Raises:
        AdapterError: a tied head, or fully trained modules.
    """
    for module in adapter.factors:
        if f"{module}.weight" == HEAD and model.architecture.tied:
            raise AdapterError(
                f"{adapter.folder}, {module}", f"changes a head that {model.folder} shares with its embedding",
                "untie the two first, or train without the head",
            )  # fmt: skip
    for name, tensor in adapter.carried.items():
        weight = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        if weight not in model.entries or not model.tensor(weight).equal(tensor.float()):
            raise AdapterError(
                f"{adapter.folder}, {weight}", "is of a module that was trained whole",
                "merge it into the model with PEFT",
            )  # fmt: skip


def _changed(model: Model, name: str, factors: LoraFactors, embedding: bool) -> torch.Tensor:
    change = (factors.b.double() @ factors.a.double()).mul_(factors.scale)
    return (model.tensor(name).double() + (change.T if embedding else change)).float()
