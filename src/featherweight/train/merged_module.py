"""One module in memory that is theta_0 + sum of c_j D_j for any coefficients c, with inner products of its gradient.

Base and deltas are read a stretch at a time whenever the coefficients change: memory is one model and one gradient,
however many deltas there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from featherweight.core.combining import summed
from featherweight.core.data import TokenSet
from featherweight.core.deltas import Delta, walk
from featherweight.core.in_threads import in_threads, usual_threads
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.train.next_token import mean_next_token_loss

_ROWS = 8


class MergedModule:
    """A base's module into which deltas are put.

    Args:
        base: theta_0.
        deltas: D.
        names: the tensors that they change.
        device: of the module.
    """

    def __init__(self, base: Model, deltas: Sequence[Delta], names: Sequence[str], device: str = "cpu") -> None:
        self.base, self.deltas, self.names, self.device = base, list(deltas), list(names), device
        self.module: Any = base.module().to(device)
        named = dict(self.module.named_parameters())
        self.parameters: dict[str, torch.nn.Parameter] = {name: named[name] for name in names}

    def load(self, coefficients: Mapping[str, Sequence[float]]) -> None:
        """Puts in c, given by tensor."""

        def put(name: str) -> None:
            self.parameters[name].data.copy_(summed(self.base, self.deltas, name, coefficients[name]))

        in_threads(put, self.names, usual_threads())

    @contextmanager
    def differentiable(self) -> Iterator[None]:
        """While it is open, losses can be differentiated; gradients are gone afterwards."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter in self.parameters.values():
                parameter.requires_grad_(False)
                parameter.grad = None

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean next-token loss of rows of tokens."""
        part = ids.to(self.device)
        return mean_next_token_loss(self.module(input_ids=part, use_cache=False).logits, part)

    def mean_loss(self, rows: TokenSet, share: float = 0.0) -> float:
        """The same over many rows, some at a time; `share` of its gradient is added to what was gathered."""
        total = 0.0
        for ids in rows.ids.split(_ROWS):
            loss, part = self.loss(ids), len(ids) / len(rows.ids)
            if share:
                (loss * (share * part)).backward()
            total += float(loss.detach()) * part
        return total

    def slopes(self) -> dict[str, torch.Tensor]:
        """<gradient, D_j> of every tensor, float64 [deltas]."""

        def dots(name: str) -> torch.Tensor:
            found = torch.zeros(len(self.deltas), dtype=torch.float64)
            gradient = self.parameters[name].grad
            if gradient is None:
                return found
            flat = gradient.detach().cpu().reshape(-1)
            for where, _, pieces in walk(name, self.base, self.deltas):
                found += pieces @ flat[where].double()
            return found

        return dict(zip(self.names, in_threads(dots, self.names, usual_threads()), strict=True))

    def weighted_grams(self, squares: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inner products of the deltas with a weight for every value, float64 [deltas, deltas], by tensor."""

        def gram(name: str) -> torch.Tensor:
            found = torch.zeros(len(self.deltas), len(self.deltas), dtype=torch.float64)
            flat = squares[name].detach().cpu().reshape(-1)
            for where, _, pieces in walk(name, self.base, self.deltas):
                found += (pieces * flat[where].double()) @ pieces.T
            return found

        return dict(zip(self.names, in_threads(gram, self.names, usual_threads()), strict=True))
