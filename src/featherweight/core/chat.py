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
from featherweight.core.sampling import BATCH, continue_texts
from featherweight.core.template import has_template, rendered, user_turn


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
    asked = [_asked(tokenizer, prompt) for prompt in (prompts() * (1 + count // len(prompts())))[:count]]
    generator = run.generator("chat")
    texts: list[str] = []
    batches = [asked[first : first + BATCH] for first in range(0, count, BATCH)]
    with run.progress.track("the model writes its own chat", len(batches) * length) as advance, torch.inference_mode():
        for batch in batches:
            written = continue_texts(module, tokenizer, batch, length, generator, advance=advance)
            texts += [str(tokenizer.decode(prompt + answer, skip_special_tokens=False)) for prompt, answer in written]
    return texts


def _asked(tokenizer: Any, prompt: str) -> str:
    """The text after which the model writes; a line of its own where there is no template to end the prompt."""
    text = rendered(tokenizer, user_turn(prompt), asked=True)
    return text if has_template(tokenizer) else text + "\n"
