"""What removing parts costs, before anything is removed: blocks, feed-forward channels, key/value groups.

Removing a block is zeroing its two output matrices, removing a channel is zeroing a column, so the second-order
estimate of `sensitivity` prices them in the same unit: expected KL divergence in nats a token. It is a prior for
choosing what to try; large removals are far from small perturbations, and only measuring them decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from featherweight.core.architecture import Reads
from featherweight.core.data import TokenSet
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.moments import Moment
from featherweight.core.run import Run
from featherweight.core.stream import Visitor, stream
from featherweight.measure.sensitivity import fisher

Removal = dict[str, Any]
"""{"blocks": [cost of each], "ffn": {share kept: total cost}, "groups": {groups kept: total cost}}."""


def removals(model: Model, tokens: TokenSet, shares: Sequence[float], run: Run) -> Removal:
    """Expected damage of removing each block, some channels, some groups; kept in the run's store."""
    facts = {"model": model.fingerprint, "tokens": tokens.digest, "shares": list(shares), "seed": run.seed}
    found: Removal = run.store.json("removal", facts, lambda: _measure(model, tokens, shares, run))
    return found


def _measure(model: Model, tokens: TokenSet, shares: Sequence[float], run: Run) -> Removal:
    visitor = _Removals(model, fisher(model, tokens, run), shares)
    with run.progress.track("pricing what could be removed", model.architecture.blocks) as advance:
        stream(model, tokens.ids, visitor, device=run.device, advance=advance)
    return {
        "blocks": visitor.blocks,
        "ffn": {str(share): total for share, total in visitor.ffn.items()},
        "groups": {str(kept): total for kept, total in visitor.groups.items()},
    }


class _Removals(Visitor):
    def __init__(self, model: Model, gradients: dict[str, torch.Tensor], shares: Sequence[float]) -> None:
        self.model, self.gradients = model, gradients
        self.blocks = [0.0] * model.architecture.blocks
        self.ffn = dict.fromkeys(shares, 0.0)
        self.groups = dict.fromkeys(range(1, model.architecture.kv_heads), 0.0)

    def enter(self, index: int, block: torch.nn.Module) -> None:
        for read in self.model.architecture.reads:
            if read.rows is not None:
                block.get_submodule(read.linears[0]).register_forward_pre_hook(self._hook(index, read))

    def _hook(self, index: int, read: Reads) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            moment = Moment().add(inputs[0]).mean()
            name = self.model.architecture.linear(index, read.linears[0])
            # sum_o G_o W_oi W_oj A_ij: its total is the cost of zeroing W, its diagonal blocks that of some columns.
            weight = self.model.tensor(name) * self.gradients[name].sqrt()[:, None]
            self._price(index, read, 0.5 * (weight.T @ weight) * moment)

        return hook

    def _price(self, index: int, read: Reads, cost: torch.Tensor) -> None:
        self.blocks[index] += float(cost.sum())
        if read.linears[0].startswith("mlp."):
            order = torch.argsort(cost.diagonal())
            for share in self.ffn:
                gone = order[: len(order) - round(share * len(order))]
                self.ffn[share] += float(cost[gone][:, gone].sum())
            return
        architecture = self.model.architecture
        width = architecture.heads_a_group * architecture.head_dim
        diagonal = cost.reshape(architecture.kv_heads, width, architecture.kv_heads, width).sum((1, 3)).diagonal()
        ordered = diagonal.sort().values
        for kept in self.groups:
            self.groups[kept] += float(ordered[: architecture.kv_heads - kept].sum())
