"""The loss of a causal language model: how surprised it is by each next token. It knows logits and tokens only."""

from __future__ import annotations

from featherweight.core.lazy import torch


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean next-token negative log-likelihood, nats.

    Args:
        logits: [rows, tokens, vocabulary]; those of the last token, which predict nothing here, may be missing.
        ids: the tokens, [rows, tokens].
    """
    predicting = logits[:, : ids.shape[1] - 1].flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(predicting, ids[:, 1:].flatten().to(logits.device))
