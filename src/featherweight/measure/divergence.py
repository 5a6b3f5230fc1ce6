"""Loss, divergence and agreement of two next-token distributions, from their logits part of the vocabulary after part.

With logits a and b of parent and child, KL = sum p (a - b) - (logsumexp a - logsumexp b): both are sums over the
vocabulary, so that a head is read once for all tokens and few logits exist at a time.
"""

from __future__ import annotations

from featherweight.core.lazy import torch
from featherweight.core.running_softmax import RunningSoftmax


class Divergence:
    """Of a child from its parent, for each of some tokens.

    Args:
        targets: the tokens that came, int64 [tokens].
    """

    def __init__(self, targets: torch.Tensor) -> None:
        self.parent, self.child = RunningSoftmax(targets), RunningSoftmax(targets)
        self._expected = torch.zeros_like(self.parent.total)

    def add(self, some: slice, first: int, parent: torch.Tensor, child: torch.Tensor) -> None:
        """Takes in a part of the vocabulary.

        Args:
            some: which tokens.
            first: the part's first token.
            parent: logits, float32 [tokens, part]; they are overwritten.
            child: the same.
        """
        difference = parent - child
        self.child.add(some, first, child)
        added = self.parent.add(some, first, parent)
        self._expected[some] = self._expected[some] * added.shrink + added.share.mul_(difference).sum(-1)

    def kl(self) -> torch.Tensor:
        """KL(parent || child), nats, float64 [tokens]."""
        kl = self._expected / self.parent.total - (self.parent.log_total() - self.child.log_total())
        return kl.clamp(min=0)  # never negative; rounding can make it so by a hair

    def agree(self) -> torch.Tensor:
        """1 where both give the same most likely token, [tokens]."""
        return self.parent.top == self.child.top
