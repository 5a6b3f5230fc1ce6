"""Elastic weight consolidation of a merge: each task holds the weights that matter to it near its own fine-tune.

Mean over tasks i of (strength / 2) * sum over weights of F_i (theta - theta_i)^2, F_i the diagonal Fisher information
of task i at its fine-tune theta_i = theta_0 + D_i, per token. With theta = theta_0 + sum of a_j Q_j this is a quadratic
form in a; once the Fisher passes are done, only that is kept (arXiv 1612.00796).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.data import TokenSet
from featherweight.core.lazy import torch
from featherweight.core.progress import Progress
from featherweight.train.merged_module import MergedModule


@dataclass(frozen=True)
class Penalty:
    """A quadratic form in the coefficients a: a^T matrix a - 2 a^T vector + constant, all float64."""

    matrix: torch.Tensor
    vector: torch.Tensor
    constant: float

    def value(self, weights: torch.Tensor) -> float:
        return float(weights @ self.matrix @ weights - 2 * weights @ self.vector) + self.constant

    def gradient(self, weights: torch.Tensor) -> torch.Tensor:
        return 2 * (self.matrix @ weights - self.vector)


def ewc_penalty(
    merged: MergedModule,
    basis: Mapping[str, torch.Tensor],
    rows: Sequence[TokenSet],
    strength: float,
    progress: Progress | None = None,
) -> Penalty:
    """The penalty of all tasks.

    Args:
        merged: the module; it holds the last task's fine-tune afterwards.
        basis: Q_i = sum of C_ij D_j: C by tensor, float64 [tasks, tasks].
        rows: of each task.
        strength: 0 = no penalty.
        progress: is told of each task.
    """
    count = len(rows)
    matrix, vector, constant = torch.zeros(count, count).double(), torch.zeros(count).double(), 0.0
    with (progress or Progress()).track("Fisher information", count) as advance:
        for task, own in enumerate(rows):
            for name, gram in merged.weighted_grams(fisher(merged, task, own)).items():
                turned = basis[name] @ gram
                matrix += turned @ basis[name].T
                vector += turned[:, task]
                constant += float(gram[task, task])
            advance()
    half = strength / 2 / count
    return Penalty(half * matrix, half * vector, half * constant)


def fisher(merged: MergedModule, task: int, rows: TokenSet) -> dict[str, torch.Tensor]:
    """Diagonal Fisher information of a task at its own fine-tune, by tensor, in the tensor's shape.

    The squared gradient of a row's mean loss times the row's predictions, averaged over the rows: per token, so that
    half of F (theta - theta_i)^2 is about what a change costs, in nats a token.
    """
    own = [1.0 if index == task else 0.0 for index in range(len(merged.deltas))]
    merged.load(dict.fromkeys(merged.names, own))
    squares = {name: torch.zeros_like(each) for name, each in merged.parameters.items()}
    with merged.differentiable():
        for ids in rows.ids:
            merged.loss(ids[None]).backward()
            for name, parameter in merged.parameters.items():
                if parameter.grad is not None:
                    factor = (len(ids) - 1) / len(rows.ids)
                    squares[name].addcmul_(parameter.grad, parameter.grad, value=factor)
                    parameter.grad = None
    return {name: each.detach() for name, each in squares.items()}
