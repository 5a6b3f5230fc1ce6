"""PEFT adapters on a model: where they go, and how they are folded into the weights.

Any PEFT method will do whose layers can be merged. Nothing is changed in place: the weights of a `Model` are shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from featherweight.core.errors import RecipeError, nearest
from featherweight.core.formats import FLOATS
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Rewrite, Run
from featherweight.core.sparsity import like

ADAPTER = "default"  # PEFT's name of a single adapter


def target_names(model: Model, targets: Sequence[str] = ()) -> list[str]:
    """Names for PEFT's `target_modules`: those given, else the last parts of the names of all linears of the blocks.

    Raises:
        RecipeError: a name matches no linear of the model; the nearest names are suggested.
    """
    linears = [name.removesuffix(".weight") for name in model.architecture.linears()]
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    for target in targets:
        if not _matching(linears, [target]):
            hint = nearest(target, [*leaves, *linears]) or f"use some of {', '.join(leaves)}"
            raise RecipeError(f"target module {target!r}", "matches no linear of the model's blocks", hint)
    return list(targets) or leaves


def adapted_linears(model: Model, targets: Sequence[str] = ()) -> list[str]:
    """Full module names of the linears that the targets stand for, in the order of computation."""
    linears = [name.removesuffix(".weight") for name in model.architecture.linears()]
    return _matching(linears, target_names(model, targets))


def _matching(names: Sequence[str], targets: Sequence[str]) -> list[str]:
    return [name for name in names if any(name == each or name.endswith(f".{each}") for each in targets)]


def require_rank(model: Model, rank: int, targets: Sequence[str] = ()) -> None:
    """Refuses a rank that a linear cannot have.

    Raises:
        RecipeError: the rank is above the smaller side of a target; the smallest is named.
    """
    sizes = {name: min(model.entries[f"{name}.weight"].shape) for name in adapted_linears(model, targets)}
    smallest = min(sizes, key=lambda name: sizes[name])
    if rank > sizes[smallest]:
        raise RecipeError(
            f"rank {rank}", f"is above the size of {smallest}, whose smaller side is {sizes[smallest]}",
            f"use a rank of at most {sizes[smallest]}, or other target modules",
        )  # fmt: skip


def fold(model: Model, adapted: Any, run: Run) -> Model:
    """The model with the adapter in its weights, each matrix in the format that it had.

    Args:
        model: what the adapter was trained on.
        adapted: PEFT's wrapper of the model's module.
        run: gives the scratch folder.

    Raises:
        RecipeError: a matrix is rounded, or the method cannot be merged.
    """
    changed = Rewrite(model, run)
    for name, values in merged(adapted):
        if name not in model.entries:
            raise RecipeError(
                f"folding an adapter into {name}", "the model has it in one with its embedding",
                "adapt other modules, or keep the adapter beside the model with `featherweight adapt`",
            )  # fmt: skip
        stored = model.stored(name)
        if model.entries[name].format not in FLOATS:
            raise RecipeError(
                f"folding an adapter into {name}", f"it is rounded to {model.entries[name].format}",
                "adapt before the quantizer, or keep the adapter beside the model with `featherweight adapt`",
            )  # fmt: skip
        if not torch.equal(values, model.tensor(name)):
            changed[name] = like(stored, values)
    return changed.finish()


def merged(adapted: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters that the adapter changes, by their name in the model, with the adapter in them, on the CPU."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, layer in adapted.get_base_model().named_modules():
        if isinstance(layer, ModulesToSaveWrapper):
            for leaf, value in layer.modules_to_save[str(layer.active_adapter)].named_parameters():
                yield f"{name}.{leaf}", value.detach().float().cpu()
        elif isinstance(layer, BaseTunerLayer):
            yield from _merged_layer(name, layer)


def _merged_layer(name: str, layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    base = layer.get_base_layer()
    before = dict(base.named_parameters(recurse=False))
    if not hasattr(layer, "merge"):
        raise RecipeError(f"the adapter of {name}", "cannot be merged", "keep it beside the model")
    try:
        for leaf, value in before.items():
            setattr(base, leaf, torch.nn.Parameter(value.detach().clone(), requires_grad=False))
        layer.merge()
        for leaf in before:
            yield f"{name}.{leaf}", getattr(base, leaf).detach().float().cpu()
    finally:
        layer.merged_adapters.clear()
        for leaf, value in before.items():
            setattr(base, leaf, value)
