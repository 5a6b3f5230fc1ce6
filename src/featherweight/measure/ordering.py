"""How much each part of a model matters: blocks, FFN channels, key/value groups, channels of the residual stream.

One walk gives an order for each kind of part, most important first, so that every smaller width is a prefix of every
larger one. Blocks by 1 - cosine of their input and output (arXiv 2403.03853), FFN channels and groups by the mean
squared contribution to their reader's output, hidden channels by their mean square after every norm (arXiv 2407.14679).
It measures, and removes nothing; what is best together is not what is best alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featherweight.core.architecture import Reads
from featherweight.core.importance import Order
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import Moment, contributions
from featherweight.core.run import Run
from featherweight.core.stream import Visitor, stream

_ROWS = 8  # rows of tokens at a time: less memory, the same result


def importance_order(model: Model, run: Run) -> Order:
    """The order of all parts on the run's calibration tokens; kept in the run's store."""
    tokens = run.tokens("the order of importance")
    facts = {"model": model.fingerprint, "tokens": tokens.digest}
    found = run.store.json("importance-order", facts, lambda: _measure(model, run))
    return Order(found["blocks"], dict(enumerate(found["ffn"])), dict(enumerate(found["groups"])), found["hidden"])


def random_order(model: Model, run: Run) -> Order:
    """Any order: a control."""
    a, generator = model.architecture, run.generator("random order")

    def shuffled(count: int) -> list[int]:
        return torch.randperm(count, generator=generator).tolist()

    ffn = {block: shuffled(a.size("ffn")) for block in range(a.blocks)}
    groups = {block: shuffled(a.kv_heads) for block in range(a.blocks)}
    return Order(shuffled(a.blocks), ffn, groups, shuffled(a.size("hidden")))


def block_importance(model: Model, run: Run) -> torch.Tensor:
    """1 - cosine of each block's input and output, averaged over the calibration tokens, [blocks]."""
    visitor = _Cosines()
    with run.progress.track("block importance", model.architecture.blocks) as advance:
        stream(model, run.tokens("block importance").ids, visitor, _ROWS, run.device, advance)
    return 1 - torch.stack(visitor.cosines)


def _measure(model: Model, run: Run) -> dict[str, Any]:
    visitor = _Parts(model)
    with run.progress.track("ordering parts by importance", model.architecture.blocks) as advance:
        stream(model, run.tokens("order").ids, visitor, _ROWS, run.device, advance)
    return {
        "blocks": _descending(1 - torch.stack(visitor.cosines)),
        "ffn": [_descending(scores) for scores in visitor.ffn],
        "groups": [_descending(scores) for scores in visitor.groups],
        "hidden": _descending(visitor.hidden),
    }


def _descending(scores: torch.Tensor) -> list[int]:
    return torch.argsort(scores, descending=True, stable=True).tolist()


class _Cosines(Visitor):
    """Mean cosine of each block's input and output."""

    def __init__(self) -> None:
        self.cosines: list[torch.Tensor] = []

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        self.cosines.append(torch.nn.functional.cosine_similarity(inputs, outputs, dim=-1).mean().cpu())


class _Parts(_Cosines):
    """Scores of everything inside the blocks as well."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.ffn: list[torch.Tensor] = []
        self.groups: list[torch.Tensor] = []
        self.hidden = torch.zeros(model.architecture.size("hidden"))
        self._moments: dict[Reads, Moment] = {}

    def enter(self, index: int, block: torch.nn.Module) -> None:
        self._moments = {read: Moment(diagonal=self._axis(read) != "query") for read in self.model.architecture.reads}
        for read, moment in self._moments.items():
            block.get_submodule(read.linears[0]).register_forward_pre_hook(_adding(moment))

    def _axis(self, read: Reads) -> str:
        return self.model.architecture.linear_axes[read.linears[0]][1]

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        super().leave(index, block, inputs, outputs)
        a = self.model.architecture
        for read, each in self._moments.items():
            moment, axis = each.mean(), self._axis(read)
            weight = self.model.tensor(a.linear(index, read.linears[0]))
            if axis == "hidden":
                self.hidden += moment
            elif axis == "ffn":
                self.ffn.append(weight.square().sum(0) * moment)
            else:
                self.groups.append(contributions(weight, moment, a.heads_a_group * a.head_dim))


def _adding(moment: Moment) -> Callable[..., None]:
    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        moment.add(inputs[0])

    return hook
