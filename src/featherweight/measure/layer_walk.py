"""Looks at the layers of a language model on its way through: one block in memory, a few numbers a sample kept.

Modules that write into the residual stream (the attention's and the feed-forward's last linear) are looked at unless
others are named: their inputs show damage of the linears before them, their outputs damage of themselves. With the
head, whose input is the final state, and the prediction nothing is out of sight.

What a child is compared with, the parent's hidden states, is kept: blocks x samples' rows x hidden x 4 bytes, some two
blocks' weights for two thousand tokens. Every model goes through in parts of the same rows, so equal models give equal
bits.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from featherweight.core.architecture import block_index, block_part
from featherweight.core.errors import CheckpointError, RecipeError, nearest
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import Compute, Visitor, head_weight, stream
from featherweight.measure.corevectors import Basis
from featherweight.measure.layers import LayerSettings, Seen
from featherweight.measure.probe_rows import ProbeRows
from featherweight.measure.state_drift import StateDrift, alignment, linear_cka, state_drift

HEAD_MODULE = "lm_head"
EMBEDDED, FINAL = "embedding", "final norm"
_TOKENS = 2048  # that go through a block together
_LOGITS = 512  # tokens whose logits are in memory at once

Bases = dict[str, Basis]


@dataclass
class StateLog:
    """Hidden states of a model, float32 [rows, tokens, hidden] each: embedded, after every block, after the norm."""

    streams: list[torch.Tensor] = field(default_factory=list)
    final: torch.Tensor | None = None


def block_name(index: int) -> str:
    """What the states after a block are called."""
    return f"block {index}"


def modules_of(model: Model, patterns: Sequence[str] = ()) -> list[str]:
    """Names of the modules to look at, in the order of computation, the head last.

    Args:
        model: a language model.
        patterns: of module names; () = what writes into the residual stream, and the head.

    Raises:
        RecipeError: a pattern matches nothing.
    """
    reads = model.architecture.reads
    every = [name.removesuffix(".weight") for name in model.architecture.linears()]
    if not patterns:
        writers = {read.linears[-1] for read in reads if read.rows is not None}
        return [name for name in every if block_part(name) in writers] + [HEAD_MODULE]
    every.append(HEAD_MODULE)
    for pattern in patterns:
        if not fnmatch.filter(every, pattern):
            hint = nearest(pattern, every) or f"use names such as {every[0]!r}, or '*.mlp.*'"
            raise RecipeError(f"the module {pattern!r}", "is none of the model's linears", hint)
    return [name for name in every if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def look_first(model: Model, rows: ProbeRows, settings: LayerSettings, run: Run) -> tuple[Bases, Seen]:
    """Makes the bases of a parent's modules and collects their corevectors on calibration rows."""
    names, bases = modules_of(model, settings.modules), Bases()

    def basis(name: str, layer: torch.nn.Module) -> Basis:
        bases[name] = settings.basis(layer, run.generator(f"directions of {name}"))
        return bases[name]

    seen = _walk(model, rows, names, basis, run, "looking at the parent's layers")
    return bases, seen


def look(
    model: Model,
    rows: ProbeRows,
    bases: Mapping[str, Basis],
    run: Run,
    log: StateLog | None = None,
    reference: StateLog | None = None,
    label: str = "looking at layers",
    outputs: bool = True,
) -> Seen:
    """Looks at a model through bases that were made of the parent, at inputs and outputs.

    Args:
        model: the parent or a child.
        rows: where to look.
        bases: of the parent's modules.
        run: device and progress.
        log: takes in the hidden states; None = they are not kept.
        reference: the parent's, to compare with; None = nothing is compared.
        label: what the progress says.
        outputs: whether what modules give is looked at too.
    """
    if reference is not None and len(reference.streams) != model.architecture.blocks + 1:
        own = StateLog()
        final = _walk(model, rows, [], None, run, label, own).prediction
        missing = {"all": f"{model.architecture.blocks} blocks, the parent has {len(reference.streams) - 1}"}
        return Seen({}, {}, final, aligned_states(reference, own, rows), missing)
    missing = {name: why for name, basis in bases.items() if (why := _unlike(model, name, basis))}
    names = [name for name in bases if name not in missing]
    seen = _walk(model, rows, names, lambda name, layer: bases[name], run, label, log, reference, outputs)
    return Seen(seen.inputs, seen.outputs, seen.prediction, seen.states, missing)


def _unlike(model: Model, name: str, basis: Basis) -> str:
    """Why a module of a child cannot be looked at through the parent's basis, or nothing."""
    found = head_shape(model) if name == HEAD_MODULE else model.entries[f"{name}.weight"].shape
    return basis.unlike(tuple(found))


def head_shape(model: Model) -> tuple[int, int]:
    """Of the matrix that makes logits."""
    return model.architecture.size("vocab"), model.architecture.size("hidden")


def _walk(
    model: Model,
    rows: ProbeRows,
    names: Sequence[str],
    basis: Callable[[str, Any], Basis] | None,
    run: Run,
    label: str,
    log: StateLog | None = None,
    reference: StateLog | None = None,
    outputs: bool = False,
) -> Seen:
    if model.architecture.variant:
        raise CheckpointError(
            str(model.folder), f"is of the class {model.architecture.class_name}, with masks by domain",
            "fold it to one domain first",
        )  # fmt: skip
    if rows.classes is not None and len(rows.classes.table) != model.architecture.size("vocab"):
        raise CheckpointError(
            str(model.folder), f"has a vocabulary of {model.architecture.size('vocab')}, the labels are classes of "
            f"{len(rows.classes.table)} tokens", "compare models of one vocabulary, or use other labels",
        )  # fmt: skip
    visitor = _Looking(rows, names, basis, outputs, log, reference)
    together = max(1, _TOKENS // rows.ids.shape[1])
    with run.progress.track(label, model.architecture.blocks) as advance:
        final = stream(model, rows.ids, visitor, together, run.device, advance)
    picked = rows.pick(final)
    if log is not None:
        log.final = final.cpu()
    if reference is not None and reference.final is not None:
        visitor.states[FINAL] = state_drift(rows.pick(reference.final), picked.cpu())
    head = head_weight(model) if HEAD_MODULE in names or rows.classes else None
    if HEAD_MODULE in names and basis is not None and head is not None:
        layer = torch.nn.Linear(1, 1, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(head, requires_grad=False)
        visitor.inputs[HEAD_MODULE] = basis(HEAD_MODULE, layer).of_inputs(layer, picked).cpu()
    return Seen(visitor.inputs, visitor.outputs, _prediction(picked, head, rows), visitor.states)


def _prediction(final: torch.Tensor, head: torch.Tensor | None, rows: ProbeRows) -> torch.Tensor | None:
    """Probability of each class of the next token, float64 [samples, classes]; None where labels are no such thing."""
    if rows.classes is None or head is None:
        return None
    head = head.to(final.device)
    return torch.cat(
        [rows.classes.mass((part @ head.T).softmax(-1)).cpu() for part in final.split(_LOGITS)]
    )  # fmt: skip


class _Looking(Visitor):
    """Collects corevectors of the modules of each block, and keeps or compares hidden states.

    Attributes:
        inputs, outputs: corevectors by module name, float32 [samples, rank].
        states: drift by name of the states.
    """

    def __init__(
        self,
        rows: ProbeRows,
        names: Sequence[str],
        basis: Callable[[str, Any], Basis] | None,
        outputs: bool,
        log: StateLog | None,
        reference: StateLog | None,
    ) -> None:
        self.rows, self.names, self.basis, self.with_outputs = rows, names, basis, outputs
        self.log, self.reference = log, reference
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.states: dict[str, StateDrift] = {}
        self._parts: dict[tuple[str, str], list[torch.Tensor]] = {}
        self._hooks: list[Any] = []
        self._left: torch.Tensor | None = None

    def enter(self, index: int, block: torch.nn.Module) -> None:
        self._parts = {}
        for name in self.names:
            if block_index(f"{name}.") == index and self.basis is not None:
                layer = block.get_submodule(block_part(name))
                self._listen(name, layer, self.basis(name, layer))

    def _listen(self, name: str, layer: torch.nn.Module, basis: Basis) -> None:
        ins, outs = self._parts.setdefault((name, "input"), []), self._parts.setdefault((name, "output"), [])

        def read(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            ins.append(basis.of_inputs(layer, inputs[0]))

        def gave(module: Any, inputs: Any, output: torch.Tensor) -> None:
            outs.append(basis.of_outputs(layer, output))

        self._hooks.append(layer.register_forward_pre_hook(read))
        if self.with_outputs:
            self._hooks.append(layer.register_forward_hook(gave))

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        while self._hooks:
            self._hooks.pop().remove()  # what is replayed is not looked at
        for (name, side), parts in self._parts.items():
            if parts:
                found = self.inputs if side == "input" else self.outputs
                found[name] = self.rows.pick(torch.cat(parts)).cpu()
        if self.log is not None:
            self.log.streams += [inputs.cpu(), outputs.cpu()] if index == 0 else [outputs.cpu()]
        if self.reference is not None and index == 0:
            self.states[EMBEDDED] = self._drift(self.reference.streams[0], inputs)
        self._left = outputs

    def replay(self, index: int, block: torch.nn.Module, compute: Compute) -> None:
        left, self._left = self._left, None
        if self.reference is None or left is None:
            return
        before, after = self.reference.streams[index : index + 2]
        local = compute(before.to(left.device)) if before.shape == left.shape else None
        self.states[block_name(index)] = self._drift(after, left, local)

    def _drift(self, reference: torch.Tensor, found: torch.Tensor, local: torch.Tensor | None = None) -> StateDrift:
        own = None if local is None else self.rows.pick(local).cpu()
        return state_drift(self.rows.pick(reference), self.rows.pick(found).cpu(), own)


def aligned_states(parent: StateLog, child: StateLog, rows: ProbeRows) -> dict[str, StateDrift]:
    """States of a child with fewer or more blocks than its parent: those that are most alike, in rising order."""
    theirs = [rows.pick(states) for states in parent.streams[1:]]
    ours = [rows.pick(states) for states in child.streams[1:]]
    likeness = torch.tensor([[linear_cka(one, other) for other in theirs] for one in ours])
    found = {EMBEDDED: state_drift(rows.pick(parent.streams[0]), rows.pick(child.streams[0]))}
    if len(ours) <= len(theirs):
        pairs = list(enumerate(alignment(likeness)))
    else:
        pairs = [(index, place) for place, index in enumerate(alignment(likeness.T))]
    for index, place in pairs:
        found[f"{block_name(index)} as {block_name(place)}"] = state_drift(theirs[place], ours[index])
    assert parent.final is not None
    assert child.final is not None
    found[FINAL] = state_drift(rows.pick(parent.final), rows.pick(child.final))
    return found
