"""Restoration: what does it help to put one layer of the child back to the parent's? The causal check of an audit.

The divergence from the parent is measured for the child as it is and for one child a layer: the embedding, each block,
the final norm with the head. All go through the child together: block i is loaded once, every child restored before i
continues through it, and the parent's block i starts the next one. Memory holds one block of each model and the hidden
states of all of them: (blocks + 3) x tokens x hidden x 4 bytes. The work is half of blocks full passes, and logits at
some positions of all.

Where layer j alone was damaged, restoring it gives exactly 0. Gains of single layers need not add up to the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.core.architecture import EMBEDDING, FINAL_NORM, block_index, block_part
from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.stream import Compute, Visitor, head_weight, stream
from featherweight.measure.clustered import ClusteredMean, clustered_mean
from featherweight.measure.layer_walk import EMBEDDED, block_name
from featherweight.measure.layers import spaced
from featherweight.measure.probe_rows import ProbeRows

LAST = "final norm and head"
_PREDICTIONS = 512  # positions at which divergences are measured
_CHUNK = 256  # of them whose logits are in memory at once


@dataclass(frozen=True)
class Restoration:
    """Divergence KL(parent || child) in nats a token.

    Attributes:
        child: of the child as it is, float64 [positions].
        restored: with one layer put back, by name.
        units: document of each position, int64 [positions].
    """

    child: torch.Tensor
    restored: Mapping[str, torch.Tensor]
    units: torch.Tensor

    @property
    def whole(self) -> ClusteredMean:
        """The mean divergence of the child as it is."""
        return clustered_mean(self.child, self.units)

    def gains(self) -> dict[str, ClusteredMean]:
        """By how much restoring each layer lowers the mean divergence; negative = it gets worse."""
        return {name: clustered_mean(self.child - found, self.units) for name, found in self.restored.items()}


def restoration(parent: Model, child: Model, rows: ProbeRows, run: Run) -> Restoration:
    """Measures it for every layer.

    Args:
        parent: what the child is compared with, and where layers are taken from.
        child: as many blocks, of the same hidden size and heads.
        rows: text; some hundreds of tokens are enough.
        run: device and progress.

    Raises:
        CheckpointError: the child's blocks cannot take the place of the parent's.
    """
    _require_interchangeable(parent, child)
    ids = rows.ids.to(run.device)
    with run.progress.track("restoring layer by layer", 2 * parent.architecture.blocks) as advance:
        reference = stream(parent, ids, device=run.device, advance=advance)
        visitor = _Restoring(parent, ids)
        final = stream(child, ids, visitor, device=run.device, advance=advance)
    places = rows.real.nonzero()
    places = places[spaced(len(places), _PREDICTIONS)]
    heads = head_weight(parent).to(run.device), head_weight(child).to(run.device)
    norm = _final_norm(child, run.device)
    states = {"": final} | {name: norm(each) for name, each in visitor.variants.items()}
    states[LAST] = _final_norm(parent, run.device)(visitor.last)
    picked = {name: each[places[:, 0], places[:, 1]] for name, each in states.items()}
    found = _divergences(reference[places[:, 0], places[:, 1]], picked, heads)
    return Restoration(found.pop(""), found, rows.units[places[:, 0]])


def _divergences(
    reference: torch.Tensor, states: Mapping[str, torch.Tensor], heads: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """KL from the parent of each child, float64 [positions], of final states [positions, hidden]."""
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in states}
    for first in range(0, len(reference), _CHUNK):
        part = slice(first, first + _CHUNK)
        parent = torch.log_softmax(reference[part] @ heads[0].T, -1)
        chances = parent.exp()
        for name, each in states.items():
            child = torch.log_softmax(each[part] @ heads[name != LAST].T, -1)
            parts[name].append((chances * (parent - child)).sum(-1).clamp(min=0).double().cpu())
    return {name: torch.cat(each) for name, each in parts.items()}


def _require_interchangeable(parent: Model, child: Model) -> None:
    one, other = parent.architecture, child.architecture
    shapes = [
        (each.model_type, each.variant, each.blocks, each.sizes["hidden"], each.head_dim) for each in (one, other)
    ]
    if shapes[0] != shapes[1] or one.variant:
        raise CheckpointError(
            str(child.folder), "has blocks that cannot take the place of the parent's: type, depth, hidden size or "
            "heads differ", "leave the restoration out",
        )  # fmt: skip


class _Restoring(Visitor):
    """Carries one variant a restored layer through the child.

    Attributes:
        variants: hidden states before the final norm, by name of the layer that was put back.
        last: those of the child itself.
    """

    def __init__(self, parent: Model, ids: torch.Tensor) -> None:
        self.parent, self.ids = parent, ids
        self.blocks = parent.skeleton().model.layers
        self.variants: dict[str, torch.Tensor] = {}
        self.last: torch.Tensor | None = None
        self._entered: torch.Tensor | None = None

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        self._entered, self.last = inputs, outputs
        if index == 0:
            self.variants[EMBEDDED] = self._embedded(inputs)

    def replay(self, index: int, block: torch.nn.Module, compute: Compute) -> None:
        for name, states in self.variants.items():
            self.variants[name] = compute(states)
        other, device = self.blocks[index], self.ids.device
        names = [name for name in self.parent.entries if block_index(name) == index]
        other.load_state_dict(
            {block_part(name): self.parent.tensor(name).to(device) for name in names}, assign=True
        )  # fmt: skip
        self.variants[block_name(index)] = compute(self._entered, other)
        other.to("meta")

    def _embedded(self, like: torch.Tensor) -> torch.Tensor:
        """The parent's embedding of the tokens, as its own class computes it."""
        module = self.parent.skeleton().model.embed_tokens
        module.load_state_dict({"weight": self.parent.tensor(EMBEDDING).to(self.ids.device)}, assign=True)
        embedded: torch.Tensor = module(self.ids)
        return embedded.to(like)


def _final_norm(model: Model, device: str) -> Any:
    norm = model.skeleton().model.norm
    norm.load_state_dict({"weight": model.tensor(FINAL_NORM).to(device)}, assign=True)
    return norm
