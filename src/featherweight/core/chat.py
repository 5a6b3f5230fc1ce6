"""Chat that a model writes itself: the third kind of default text, with what people will use the model for.

Prompts are ours (`chat_prompts.txt`); answers are sampled from the parent in one batch, so that they cost about as much
as reading as many tokens. A model without a chat template continues the prompt as plain text.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run

_BATCH = 64


def prompts() -> list[str]:
    """The prompts, one a line of the data file."""
    text = resources.files("featherweight.core").joinpath("chat_prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def write_chat(model: Model, run: Run, count: int = 48, length: int = 96) -> list[str]:
    """Conversations of one prompt and an answer of at most `length` tokens, sampled at temperature 1.

    The result is kept in the run's store; one seed on one machine gives the same text.
    """
    facts = {"model": model.fingerprint, "count": count, "length": length, "seed": run.seed, "prompts": prompts()}
    return list(run.store.json("chat", facts, lambda: _sample(model, run, count, length)))


def _sample(model: Model, run: Run, count: int, length: int) -> list[str]:
    tokenizer, module = model.tokenizer, model.module().to(run.device)
    asked = [_format(tokenizer, prompt) for prompt in (prompts() * (1 + count // len(prompts())))[:count]]
    generator = run.generator("chat")
    texts: list[str] = []
    batches = [asked[first : first + _BATCH] for first in range(0, count, _BATCH)]
    with run.progress.track("the model writes its own chat", len(batches) * length) as advance, torch.inference_mode():
        for batch in batches:
            texts += _continue(module, tokenizer, batch, length, generator, advance)
    return texts


def _format(tokenizer: Any, prompt: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        return prompt + "\n"
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _continue(
    module: Any, tokenizer: Any, batch: list[str], length: int, generator: torch.Generator, advance: Any
) -> list[str]:
    """Samples token by token with a key/value cache; prompts are padded on the left."""
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in batch]
    width, end = max(map(len, encoded)), tokenizer.eos_token_id
    ids = torch.tensor([[end or 0] * (width - len(each)) + each for each in encoded], device=module.device)
    mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in encoded], device=module.device)
    cache, step, written = None, ids, ids
    for _ in range(length):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :]
        output = module(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        cache = output.past_key_values
        step = torch.multinomial(output.logits[:, -1].float().softmax(-1).cpu(), 1, generator=generator).to(ids.device)
        written = torch.cat([written, step], 1)
        mask = torch.cat([mask, torch.ones_like(step)], 1)
        advance()
    rows = [
        _until_end(row[width - len(each) :].tolist(), len(each), end)
        for row, each in zip(written, encoded, strict=True)
    ]
    return [str(tokenizer.decode(row, skip_special_tokens=False)) for row in rows]


def _until_end(ids: list[int], prompt: int, end: int | None) -> list[int]:
    """A conversation up to and with its first end-of-turn token after the prompt."""
    answer = ids[prompt:]
    return ids[:prompt] + (answer[: answer.index(end) + 1] if end in answer else answer)
