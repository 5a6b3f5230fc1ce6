"""What a merge's coefficients are fitted on: the mean loss of its tasks, as a function of the coefficients alone.

theta(a) = theta_0 + sum of a_i Q_i; the gradient with regard to a_i is <dL/dtheta, Q_i>. There are as many numbers to
find as there are tasks, so a few rows of text a task are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featherweight.core.data import TokenSet
from featherweight.core.deltas import Delta
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.train.merge_ewc import ewc_penalty
from featherweight.train.merged_module import MergedModule


class MergeObjective:
    """The mean over tasks of the next-token loss of the merged model, plus an EWC penalty.

    Args:
        base: theta_0.
        deltas: D.
        basis: Q_i = sum of C_ij D_j: C by tensor, float64 [tasks, tasks].
        rows: token rows of each task.
        strength: of the penalty; 0 = none.
        device: of the module.
        progress: is told of what the penalty needs.
    """

    def __init__(
        self, base: Model, deltas: Sequence[Delta], basis: Mapping[str, torch.Tensor], rows: Sequence[TokenSet],
        strength: float = 0.0, device: str = "cpu", progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.basis, self.rows = basis, rows
        self.merged = MergedModule(base, deltas, list(basis), device)
        self.penalty = ewc_penalty(self.merged, basis, rows, strength, progress) if strength else None

    def losses(self, weights: torch.Tensor) -> list[float]:
        """The loss of each task, nats a token, at coefficients float64 [tasks]."""
        self._load(weights)
        with torch.no_grad():
            return [self.merged.mean_loss(each) for each in self.rows]

    def value(self, weights: torch.Tensor) -> float:
        """What is minimised."""
        return self._penalised(sum(self.losses(weights)) / len(self.rows), weights)

    def gradient(self, weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The value and its gradient, float64 [tasks]."""
        self._load(weights)
        with self.merged.differentiable():
            share = 1 / len(self.rows)
            value = sum(self.merged.mean_loss(each, share) * share for each in self.rows)
            slopes = self.merged.slopes()
        found = torch.stack([self.basis[name] @ each for name, each in slopes.items()]).sum(0)
        if self.penalty is not None:
            found += self.penalty.gradient(weights)
        return self._penalised(value, weights), found

    def _penalised(self, value: float, weights: torch.Tensor) -> float:
        return value if self.penalty is None else value + self.penalty.value(weights)

    def _load(self, weights: torch.Tensor) -> None:
        self.merged.load({name: (weights @ matrix).tolist() for name, matrix in self.basis.items()})
