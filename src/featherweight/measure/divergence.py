"""Loss, divergence and agreement of two next-token distributions, from their logits part of the vocabulary after part.

With logits a and b of parent and child, KL = sum p (a - b) - (logsumexp a - logsumexp b). Both sums are carried over
the parts with a running maximum, so that no [tokens, vocabulary] tensor exists, and a head is read once for all tokens.
"""

from __future__ import annotations

from featherweight.core.lazy import torch


class Distribution:
    """What is known so far of a next-token distribution, for each of some tokens.

    Attributes:
        best: greatest logit so far, float32 [tokens].
        top: the token that has it, int64 [tokens].
        total: sum of exp(logit - best), float64 [tokens].
        label: logit of the token that came, float32 [tokens].
    """

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets = targets
        self.best = torch.full(targets.shape, -torch.inf, device=targets.device)
        self.top = torch.zeros_like(targets)
        self.total = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        self.label = torch.zeros_like(self.best)

    def add(self, some: slice, first: int, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes in a part; returns exp(logit - best) of it, and what earlier sums must be multiplied by."""
        inside = (self.targets[some] >= first) & (self.targets[some] < first + logits.shape[1])
        at = inside.nonzero()[:, 0]
        self.label[some][at] = logits[at, self.targets[some][at] - first]
        best, top = logits.max(-1)
        before = self.best[some]
        self.top[some] = torch.where(best > before, top + first, self.top[some])
        best = torch.maximum(best, before)
        shrink = (before - best).exp().double()
        share = (logits - best[:, None]).exp_()
        self.best[some] = best
        self.total[some] = self.total[some] * shrink + share.sum(-1)
        return share, shrink

    def log_total(self) -> torch.Tensor:
        """logsumexp of the logits, float64 [tokens]."""
        return self.best + self.total.log()

    def nll(self) -> torch.Tensor:
        """Negative log-likelihood of the tokens that came, nats, float64 [tokens]."""
        return self.log_total() - self.label


class Divergence:
    """Of a child from its parent, for each of some tokens.

    Args:
        targets: the tokens that came, int64 [tokens].
    """

    def __init__(self, targets: torch.Tensor) -> None:
        self.parent, self.child = Distribution(targets), Distribution(targets)
        self._expected = torch.zeros_like(self.parent.total)

    def add(self, some: slice, first: int, parent: torch.Tensor, child: torch.Tensor) -> None:
        """Takes in a part of the vocabulary.

        Args:
            some: which tokens.
            first: the part's first token.
            parent: logits, float32 [tokens, part].
            child: the same.
        """
        self.child.add(some, first, child)
        share, shrink = self.parent.add(some, first, parent)
        self._expected[some] = self._expected[some] * shrink + share.mul_(parent - child).sum(-1)

    def kl(self) -> torch.Tensor:
        """KL(parent || child), nats, float64 [tokens]."""
        kl = self._expected / self.parent.total - (self.parent.log_total() - self.child.log_total())
        return kl.clamp(min=0)  # never negative; rounding can make it so by a hair

    def agree(self) -> torch.Tensor:
        """1 where both give the same most likely token, [tokens]."""
        return self.parent.top == self.child.top
