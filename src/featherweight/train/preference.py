"""Direct preference optimisation (arXiv 2305.18290): a model is moved from rejected answers towards chosen ones.

L = -log sigmoid(beta (log p(y_w)/p0(y_w) - log p(y_l)/p0(y_l))) with p0 the model before training. Only the tokens of
an answer count, not those of its prompt. While p = p0 the loss is ln 2. Knows tokens and log-probabilities; where the
pairs come from and which weights move is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.lazy import torch

Weights = Mapping[str, "torch.Tensor"]
"""Weights by parameter name, in place of the module's own."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, as token ids, of which one is preferred."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True)
class Answered:
    """Prompts with answers, padded on the right.

    Attributes:
        ids: int64 [rows, length].
        present: 1 where there is a token, int64 [rows, length].
        answer: whether the token after a position belongs to the answer, bool [rows, length - 1].
    """

    ids: torch.Tensor
    present: torch.Tensor
    answer: torch.Tensor


def answered(rows: Sequence[tuple[Sequence[int], Sequence[int]]], device: str = "cpu") -> Answered:
    """A batch of (prompt, answer)."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, present, counted = [], [], []
    for prompt, answer in rows:
        padding = length - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[0] * padding])
        present.append([1] * (length - padding) + [0] * padding)
        counted.append([False] * (len(prompt) - 1) + [True] * len(answer) + [False] * padding)
    return Answered(*(torch.tensor(each, device=device) for each in (ids, present, counted)))


def answer_log_probabilities(logits: torch.Tensor, batch: Answered) -> torch.Tensor:
    """log p(answer | prompt) of each row, [rows], from logits [rows, length, vocabulary]."""
    every = logits[:, :-1].float().log_softmax(-1)
    each = every.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
    return each.masked_fill(~batch.answer, 0.0).sum(-1)


def log_probabilities(module: Any, weights: Weights, batch: Answered) -> torch.Tensor:
    """log p(answer | prompt) of each row, [rows], by a transformers module with some weights replaced."""
    inputs = {"input_ids": batch.ids, "attention_mask": batch.present, "use_cache": False}
    output = torch.func.functional_call(module, dict(weights), kwargs=inputs)
    return answer_log_probabilities(output.logits, batch)


def answer_loss(module: Any, weights: Weights, batch: Answered) -> torch.Tensor:
    """Mean negative log-likelihood of a token of an answer."""
    return -log_probabilities(module, weights, batch).sum() / batch.answer.sum()


def dpo_loss(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """The mean loss over pairs.

    Args:
        policy: log-probabilities of the chosen and the rejected answers, [2, pairs].
        reference: the same by the model before training.
        beta: how strongly the model is held to the reference.
    """
    moved = policy - reference
    return -torch.nn.functional.logsigmoid(beta * (moved[0] - moved[1])).mean()


class PreferenceLoss:
    """The loss of a batch of pairs. The reference is the module itself, with its own weights.

    Args:
        module: a transformers causal language model.
        pairs: all pairs that are trained on.
        beta: see `dpo_loss`.
        device: where the module is.
    """

    def __init__(self, module: Any, pairs: Sequence[Pair], beta: float, device: str = "cpu") -> None:
        self.module, self.pairs, self.beta, self.device = module, pairs, beta, device
        self._reference: dict[int, torch.Tensor] = {}

    def __call__(self, weights: Weights, rows: Sequence[int]) -> torch.Tensor:
        pairs = [self.pairs[row] for row in rows]
        both = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
        batch = answered(both, self.device)
        reference = self._known(batch, rows)
        return dpo_loss(log_probabilities(self.module, weights, batch).view(2, -1), reference, self.beta)

    def _known(self, batch: Answered, rows: Sequence[int]) -> torch.Tensor:
        """Reference log-probabilities [2, pairs], computed when a pair is first seen, in the batch it is seen in."""
        if any(row not in self._reference for row in rows):
            with torch.no_grad():
                found = log_probabilities(self.module, {}, batch).view(2, -1)
            self._reference |= {row: found[:, column] for column, row in enumerate(rows)}
        return torch.stack([self._reference[row] for row in rows], 1)
