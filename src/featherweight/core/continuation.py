"""Answers that a model writes itself: tokens sampled after prompts of different lengths, in one batch, with a cache.

Knows tokens only; what is asked, and what an answer is good for, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from featherweight.core.lazy import torch

Tokens = Sequence[int]


def continue_tokens(
    module: Any,
    prompts: Sequence[Tokens],
    length: int,
    end: int | None,
    generator: torch.Generator,
    temperature: float = 1.0,
    advance: Callable[[], None] | None = None,
    until_all_end: bool = False,
) -> list[list[int]]:
    """The continuation of each prompt, up to and with its first end-of-turn token.

    Args:
        module: a transformers causal language model.
        prompts: token ids; they go through the model together, padded on the left.
        length: most tokens of a continuation.
        end: the end-of-turn token; None = there is none.
        generator: draws the tokens, on the CPU.
        temperature: of the sampling; 0 = always the likeliest token.
        advance: called once a token, for progress.
        until_all_end: whether to stop when every continuation has ended; then `advance` may be called less often.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[end or 0] * (width - len(each)) + list(each) for each in prompts], device=module.device)
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts], device=module.device)
    cache, step, written = None, ids, ids
    ended = torch.zeros(len(prompts), 1, dtype=torch.bool, device=ids.device)
    for _ in range(length):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :]
        output = module(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        cache = output.past_key_values
        step = _draw(output.logits[:, -1].float(), temperature, generator).to(ids.device)
        written = torch.cat([written, step], 1)
        mask = torch.cat([mask, torch.ones_like(step)], 1)
        ended |= step == end
        if advance:
            advance()
        if until_all_end and bool(ended.all()):
            break
    return [_until_end(row[width:].tolist(), end) for row in written]


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """One token of each row of logits [rows, vocabulary], int64 [rows, 1]."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(-1).cpu(), 1, generator=generator)


def _until_end(answer: list[int], end: int | None) -> list[int]:
    return answer[: answer.index(end) + 1] if end in answer else answer
