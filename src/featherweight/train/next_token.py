"""The loss of a causal language model over the predictions that count, computing logits for those alone.

Sum of the negative log-likelihoods, nats, and their number: who accumulates divides by the number of a whole update.
Hidden states are computed at every position (they are context), the head only where a label is trained on, and in
pieces of the vocabulary where it is frozen (`train.chunked_head`); this is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featherweight.core.batch import IGNORED, Batch
from featherweight.core.lazy import torch

_LOGITS = 1 << 22  # in memory at once where nothing is trained, 16 MB

LossOf = Callable[[Any, Batch], "tuple[torch.Tensor, int]"]
"""From a module and a batch to the sum of the losses of what counts, and how many these are."""


def next_token_loss(module: Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """Sum of next-token losses over trainable labels, and their number; a batch without any gives zero.

    Args:
        module: a transformers causal language model, or PEFT's wrapper of one.
        batch: rows of tokens on the module's device.
    """
    from featherweight.train.chunked_head import loss_of

    return loss_of(module, batch)


def next_token_losses(module: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every prediction that counts, and which these are.

    Returns:
        float32 [predictions], and bool [rows, length - 1].
    """
    causal, kept = causal_of(module), batch.targets != IGNORED
    states = causal.model(**batch.inputs()).last_hidden_state[:, :-1][kept]
    head, step = causal.get_output_embeddings(), max(1, _LOGITS // int(causal.config.get_text_config().vocab_size))
    targets, losses = batch.targets[kept], states.new_empty(len(states), dtype=torch.float32)
    for first in range(0, len(states), step):
        part = slice(first, first + step)
        logits = softcapped(head(states[part]), causal).float()
        losses[part] = torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
    return losses, kept


def mean_next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean loss over all next tokens of rows that are nothing but text.

    Args:
        logits: [rows, tokens, vocabulary]; those of the last token, which predict nothing here, may be missing.
        ids: the tokens, [rows, tokens].
    """
    predicting = logits[:, : ids.shape[1] - 1].flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(predicting, ids[:, 1:].flatten().to(logits.device))


def causal_of(module: Any) -> Any:
    """The transformers module inside PEFT's wrapper, or the module itself."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def softcapped(logits: torch.Tensor, causal: Any) -> torch.Tensor:
    """Logits as the model's own forward gives them: some architectures bound them."""
    limit = getattr(causal.config, "final_logit_softcapping", None)
    return logits if limit is None else limit * torch.tanh(logits / limit)
