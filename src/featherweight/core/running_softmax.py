"""The softmax of many logits, part of the vocabulary after part: no tensor of all of them exists.

Sums are carried over the parts with a running maximum, which is exact.
"""

from __future__ import annotations

from typing import NamedTuple

from featherweight.core.lazy import torch


class Added(NamedTuple):
    """What a part brought.

    Attributes:
        share: exp(logit - best), float32 [tokens, part].
        shrink: what sums over earlier parts must be multiplied by, float32 [tokens].
        at, column: which of the tokens have their label in this part, and where, int64.
    """

    share: torch.Tensor
    shrink: torch.Tensor
    at: torch.Tensor
    column: torch.Tensor


class RunningSoftmax:
    """What is known so far of a next-token distribution, for each of some tokens.

    Args:
        targets: the label of each token, int64 [tokens].

    Attributes:
        best: greatest logit so far, float32 [tokens].
        top: which has it, int64 [tokens].
        total: sum of exp(logit - best), float64 [tokens].
        label: logit of the label, float32 [tokens].
    """

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets = targets
        self.best = torch.full(targets.shape, -torch.inf, device=targets.device)
        self.top = torch.zeros_like(targets)
        self.total = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        self.label = torch.zeros_like(self.best)

    def add(self, some: slice, first: int, logits: torch.Tensor) -> Added:
        """Takes in a part of the vocabulary.

        Args:
            some: which tokens.
            first: the part's first.
            logits: float32 [tokens, part]; they are overwritten.
        """
        inside = (self.targets[some] >= first) & (self.targets[some] < first + logits.shape[1])
        at = inside.nonzero()[:, 0]
        column = self.targets[some][at] - first
        self.label[some][at] = logits[at, column]
        before = self.best[some]
        best, top = logits.max(-1)
        self.top[some] = torch.where(best > before, top + first, self.top[some])
        best = torch.maximum(best, before)
        shrink = (before - best).exp()
        share = logits.sub_(best[:, None]).exp_()
        self.best[some] = best
        self.total[some] = self.total[some] * shrink + share.sum(-1)
        return Added(share, shrink, at, column)

    def log_total(self) -> torch.Tensor:
        """logsumexp of the logits, float64 [tokens]."""
        return self.best + self.total.log()

    def nll(self) -> torch.Tensor:
        """Negative log-likelihood of the labels, nats, float64 [tokens]."""
        return self.log_total() - self.label
