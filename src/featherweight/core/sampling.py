"""Sampling from a transformers module: texts or tokens continued together, one by one, with a key/value cache.

Prompts are padded on the left. What a row draws depends on the generator, on the rows beside it and on nothing else, so
the same call gives the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from featherweight.core.lazy import torch

BATCH = 64


@dataclass(frozen=True)
class Draw:
    """How the next token is drawn.

    Attributes:
        temperature: 1 = as the model says; 0 = the likeliest token.
        top_p: only the likeliest tokens that together reach this probability.
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def token(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One token a row, int64 [rows, 1] on the CPU, from [rows, vocab]."""
        if self.temperature == 0:
            return logits.argmax(-1, keepdim=True).cpu()
        probabilities = (logits.float() / self.temperature).softmax(-1).cpu()
        if self.top_p < 1:
            probabilities = _nucleus(probabilities, self.top_p)
        return torch.multinomial(probabilities, 1, generator=generator)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero outside the smallest set of likeliest tokens that reaches `top_p`; the likeliest one always stays."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    return probabilities.scatter(-1, order, ranked.masked_fill(outside, 0.0))


def turn_ends(model: Any) -> frozenset[int]:
    """The tokens with which a core `Model` ends its turn: the tokenizer's, and those of its generation settings."""
    path = model.folder / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found: set[int] = set()
    for ids in (model.tokenizer.eos_token_id, model.config.get("eos_token_id"), settings.get("eos_token_id")):
        found.update(ids if isinstance(ids, list) else [ids] if ids is not None else [])
    return frozenset(found)


def continue_texts(
    module: Any,
    tokenizer: Any,
    texts: Sequence[str],
    length: int,
    generator: torch.Generator,
    draw: Draw = Draw(),
    advance: Callable[[], None] | None = None,
) -> list[tuple[list[int], list[int]]]:
    """The token ids of each text, and those of its continuation up to and with the first end-of-turn token.

    Args:
        module: a causal language model of transformers.
        tokenizer: its tokenizer.
        texts: prompts, special tokens written out.
        length: tokens to draw at most.
        generator: decides the draws.
        draw: how a token is drawn.
        advance: called once a token, for progress.
    """
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    answers = continue_tokens(module, encoded, length, tokenizer.eos_token_id, generator, draw, advance)
    return list(zip(encoded, answers, strict=True))


def continue_tokens(
    module: Any,
    prompts: Sequence[Sequence[int]],
    length: int,
    end: int | Collection[int] | None,
    generator: torch.Generator,
    draw: Draw = Draw(),
    advance: Callable[[], None] | None = None,
    until_all_end: bool = False,
) -> list[list[int]]:
    """The continuation of each prompt, up to and with its first end-of-turn token.

    Args:
        module: a causal language model of transformers.
        prompts: token ids; they go through the model together.
        length: tokens to draw at most.
        end: the end-of-turn token, or several; None = there is none.
        generator: decides the draws.
        draw: how a token is drawn.
        advance: called once a token, for progress.
        until_all_end: whether to stop when every continuation has ended; then `advance` may be called less often.
    """
    ends = [end] if isinstance(end, int) else sorted(end or ())
    ids, mask = left_padded(prompts, module.device, next(iter(ends), 0))
    cache, step, written = None, ids, ids
    ended = torch.zeros(len(prompts), 1, dtype=torch.bool, device=ids.device)
    for _ in range(length):
        positions = positions_of(mask)[:, -step.shape[1] :]
        output = module(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        cache = output.past_key_values
        step = draw.token(output.logits[:, -1], generator).to(ids.device)
        written = torch.cat([written, step], 1)
        mask = torch.cat([mask, torch.ones_like(step)], 1)
        if advance:
            advance()
        if until_all_end and ends:
            ended |= torch.isin(step, torch.tensor(ends, device=step.device))
            if bool(ended.all()):
                break
    return [_until_end(answer, ends) for answer in written[:, ids.shape[1] :].tolist()]


def left_padded(rows: Sequence[Sequence[int]], device: Any, padding: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens made equally long on the left, int64 [rows, tokens], and where their own tokens are, 1 or 0."""
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(each)) + list(each) for each in rows], device=device)
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in rows], device=device)
    return ids, mask


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token in its own row, [rows, tokens]."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def _until_end(answer: list[int], ends: Collection[int]) -> list[int]:
    """An answer up to and with its first end-of-turn token."""
    last = next((index for index, token in enumerate(answer) if token in ends), len(answer))
    return answer[: last + 1]
