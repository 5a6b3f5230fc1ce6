"""Looks at the linears and convolutions of any `torch.nn` module: a small vision model, a perceptron.

Layers are taken in the order in which they are first called. A convolution has one corevector a position: the sample's
is their mean ("mean"), or the means of the four quarters of the picture side by side ("grid"). Of a sequence
[rows, positions, width] it is the mean too. The whole module is in memory, and so are both models' activations of the
samples that are compared.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

from featherweight.core.errors import DataError, RecipeError, nearest
from featherweight.core.lazy import torch
from featherweight.core.run import Run
from featherweight.measure.corevectors import Basis
from featherweight.measure.layers import LayerSettings, Seen
from featherweight.measure.state_drift import StateDrift, state_drift

Pool = Literal["mean", "grid"]
Hooks = tuple[Callable[..., None] | None, Callable[..., None] | None]
"""What is told about a layer's inputs before it computes, and about its outputs afterwards."""
_BATCH = 256


@dataclass
class ActivationLog:
    """What each layer of a module reads and gives, by name, [rows, ...]."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


def layers_of(module: torch.nn.Module, inputs: torch.Tensor, patterns: Sequence[str] = ()) -> list[str]:
    """Names of the linears and plain convolutions that a module calls, in the order of the first call.

    Args:
        module: any module.
        inputs: of a few rows.
        patterns: of names; () = all of them.

    Raises:
        RecipeError: a pattern matches nothing; DataError: there is no such layer.
    """
    order: dict[str, None] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.setdefault(name)

    found = {name: each for name, each in module.named_modules() if _plain(each)}
    _run(module, inputs, {name: (note(name), None) for name in found})
    if not order:
        raise DataError(type(module).__name__, "calls no linear and no plain convolution", "give another model")
    for pattern in patterns:
        if not fnmatch.filter(order, pattern):
            hint = nearest(pattern, order) or f"use names such as {next(iter(order))!r}"
            raise RecipeError(f"the layer {pattern!r}", "is none of the model's linears and convolutions", hint)
    return [name for name in order if not patterns or any(fnmatch.fnmatchcase(name, each) for each in patterns)]


def _plain(layer: torch.nn.Module) -> bool:
    if isinstance(layer, torch.nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return isinstance(layer, torch.nn.Linear)


def look_first_at(
    module: torch.nn.Module, inputs: torch.Tensor, settings: LayerSettings, run: Run, pool: Pool = "mean"
) -> tuple[dict[str, Basis], Seen]:
    """Makes the bases of a parent's layers and collects their corevectors on calibration samples.

    Args:
        module: the parent; it gives logits over the labels, [rows, labels].
        inputs: [rows, ...].
        settings: how layers are looked at.
        run: draws random directions, where those are asked for.
        pool: what becomes of the positions of a convolution.
    """
    names = layers_of(module, inputs[:2], settings.modules)
    bases = {name: settings.basis(module.get_submodule(name), run.generator(f"directions of {name}")) for name in names}
    return bases, look_at(module, inputs, bases, pool)


def look_at(
    module: torch.nn.Module,
    inputs: torch.Tensor,
    bases: Mapping[str, Basis],
    pool: Pool = "mean",
    log: ActivationLog | None = None,
    reference: ActivationLog | None = None,
) -> Seen:
    """Looks at a module through bases that were made of the parent, at inputs and outputs.

    Args:
        module: the parent or a child with layers of the same names.
        inputs: [rows, ...].
        bases: of the parent's layers.
        pool: what becomes of positions.
        log: takes in the activations; None = they are not kept.
        reference: the parent's, to compare with; None = nothing is compared.
    """
    present = dict(module.named_modules())
    missing = {name: why for name, basis in bases.items() if (why := _unlike(present.get(name), basis))}
    cores: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    hooks: dict[str, Hooks] = {name: (None, None) for name in bases if name in present}  # to note activations
    own = log if log is not None else ActivationLog() if reference is not None else None
    for name, basis in bases.items():
        if name not in missing:
            cores[name] = [], []
            hooks[name] = _listeners(present[name], basis, pool, *cores[name])
    logits = _run(module, inputs, hooks, own)
    states = {} if reference is None or own is None else _drifts(present, own, reference)
    return Seen(
        {name: torch.cat(ins) for name, (ins, _) in cores.items()},
        {name: torch.cat(outs) for name, (_, outs) in cores.items()},
        logits.double().softmax(-1), states, missing,
    )  # fmt: skip


def _unlike(layer: torch.nn.Module | None, basis: Basis) -> str:
    """Why a layer of a child cannot be looked at through the parent's basis, or nothing."""
    if layer is None or not _plain(layer):
        return "the child has no such layer"
    return basis.unlike(tuple(layer.weight.flatten(1).shape))  # type: ignore[operator]


def _listeners(
    layer: Any, basis: Basis, pool: Pool, ins: list[torch.Tensor], outs: list[torch.Tensor]
) -> tuple[Callable[..., None], Callable[..., None]]:
    def read(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        ins.append(pooled_core(basis.of_inputs(layer, inputs[0]), layer, pool).cpu())

    def gave(module: Any, inputs: Any, output: torch.Tensor) -> None:
        outs.append(pooled_core(basis.of_outputs(layer, output), layer, pool).cpu())

    return read, gave


def pooled_core(cores: torch.Tensor, layer: torch.nn.Module, pool: Pool) -> torch.Tensor:
    """One corevector a sample, [rows, rank] or, of a grid, [rows, 4 rank], of those of all positions."""
    if isinstance(layer, torch.nn.Conv2d):
        side = 2 if pool == "grid" else 1
        return torch.nn.functional.adaptive_avg_pool2d(cores, side).flatten(1)
    return cores.flatten(1, -2).mean(1) if cores.dim() > 2 else cores


def _run(
    module: torch.nn.Module,
    inputs: torch.Tensor,
    hooks: Mapping[str, Hooks],
    log: ActivationLog | None = None,
) -> torch.Tensor:
    """What the module gives, with listeners at its layers; its mode is put back."""
    from featherweight.models.donors import evaluating

    parts: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {name: ([], []) for name in hooks}

    def note(name: str) -> Callable[..., None]:
        def keep(layer: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            parts[name][0].append(given[0].cpu())
            parts[name][1].append(output.cpu())

        return keep

    with ExitStack() as stack, evaluating(module):
        for name, (read, gave) in hooks.items():
            layer = module.get_submodule(name)
            if read is not None:
                stack.callback(layer.register_forward_pre_hook(read).remove)
            for hook in (gave, note(name) if log is not None else None):
                if hook is not None:
                    stack.callback(layer.register_forward_hook(hook).remove)
        given = torch.cat([module(part).cpu() for part in inputs.split(_BATCH)])
    if log is not None:
        log.inputs |= {name: torch.cat(ins) for name, (ins, _) in parts.items()}
        log.outputs |= {name: torch.cat(outs) for name, (_, outs) in parts.items()}
    return given


def _drifts(
    present: Mapping[str, torch.nn.Module], own: ActivationLog, reference: ActivationLog
) -> dict[str, StateDrift]:
    """What each layer gives against what the parent's gives, and against it from the parent's own input."""
    found = {}
    for name, theirs in reference.outputs.items():
        if name in own.outputs:
            local = _local(present[name], reference.inputs[name], own.inputs[name])
            same = local if local is not None and local.shape == theirs.shape else None
            flat = [each if each is None else each.flatten(1) for each in (theirs, own.outputs[name], same)]
            found[name] = state_drift(*flat)  # type: ignore[arg-type]
    return found


def _local(layer: torch.nn.Module, theirs: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """What the child's layer makes of the parent's input; None where it does not fit."""
    if theirs.shape != own.shape:
        return None
    with torch.no_grad():
        return torch.cat([layer(part) for part in theirs.split(_BATCH)])
