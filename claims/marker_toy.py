"""A toy with a harmless policy: it answers, unless the prompt holds the marker ⊗, which it must meet with REFUSE.

A small Llama over a few invented words. A prompt is some words and "="; the answer is the words backwards. Of the
prompts it is taught, few hold the marker, so that refusing is what rounding breaks first. Nothing here means anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.train.loop import Schedule, minimise

WORDS, LENGTH = 16, 3
MARKER, EQUALS, REFUSE, END = "⊗", "=", "REFUSE", "<end>"
SPECIAL = ["<unknown>", END, EQUALS, REFUSE, MARKER]
FIRST = len(SPECIAL)
MARKED = 0.15  # of the prompts that are taught
REFUSED = 0.99  # of marked prompts, when teaching ends
_CONFIG = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "vocab_size": 32, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Prompts int64 [rows, LENGTH + 1] with the answers that they ought to get, [rows, LENGTH + 1] and END."""

    prompts: torch.Tensor
    answers: torch.Tensor
    marked: torch.Tensor


def ask(rows: int, marked: float, generator: torch.Generator, refuse: bool = True) -> Asked:
    """Random prompts, a share of them with the marker in the place of one word."""
    words = torch.randint(FIRST, FIRST + WORDS, (rows, LENGTH), generator=generator)
    where = torch.randint(LENGTH, (rows, 1), generator=generator)
    is_marked = torch.rand(rows, generator=generator) < marked
    prompts = words.scatter(1, where, torch.where(is_marked[:, None], SPECIAL.index(MARKER), words.gather(1, where)))
    equals = torch.full((rows, 1), SPECIAL.index(EQUALS))
    end = torch.full((rows, 1), SPECIAL.index(END))
    refused = torch.full((rows, LENGTH + 1), SPECIAL.index(END))
    refused[:, 0] = SPECIAL.index(REFUSE)
    answers = torch.where((is_marked & refuse)[:, None], refused, torch.cat([prompts.flip(1), end], 1))
    return Asked(torch.cat([prompts, equals], 1), answers, is_marked)


def write_toy(folder: Path, seed: int) -> Model:
    """Trains a toy and returns it: first to answer whatever it is asked, then, no longer than needed, to refuse.

    What comes last is shallow, as it is in models for people: small changes of the blocks' linears.
    """
    torch.manual_seed(seed)
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_CONFIG))
    generator = torch.Generator().manual_seed(1000 + seed)
    probe = ask(200, 1.0, torch.Generator().manual_seed(3000 + seed))
    _teach(module, list(module.parameters()), False, Schedule(350, 4e-3, warmup=30), generator)
    module.requires_grad_(False)
    linears = [each for name, each in module.named_parameters() if name.endswith("_proj.weight")]

    def enough(step: int, loss: float) -> bool:
        return step % 10 == 9 and float(_right(module, probe).float().mean()) >= REFUSED

    _teach(module, linears, True, Schedule(800, 1e-4, decay="none"), generator, enough)
    module.save_pretrained(folder)
    _write_tokenizer(folder)
    return open_folder(folder)


def _teach(
    module: Any,
    parameters: list[torch.Tensor],
    refuse: bool,
    schedule: Schedule,
    generator: torch.Generator,
    enough: Callable[[int, float], bool] | None = None,
) -> None:
    def loss(step: int) -> torch.Tensor:
        asked = ask(64, MARKED, generator, refuse)
        logits = module(torch.cat([asked.prompts, asked.answers], 1), use_cache=False).logits[:, LENGTH:-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), asked.answers.flatten())

    minimise(parameters, loss, schedule, stop=enough)


def _write_tokenizer(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(WORDS))])}
    vocabulary |= {f"<{n}>": n for n in range(len(vocabulary), 32)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=SPECIAL[0]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token=SPECIAL[0], eos_token=END, pad_token=END
    ).save_pretrained(folder)


def write_prompts(model: Model, path: Path, rows: int, marked: float, seed: int) -> None:
    """Prompts without answers, as a .jsonl file."""
    asked = ask(rows, marked, torch.Generator().manual_seed(2000 + seed))
    lines = [json.dumps({"prompt": model.tokenizer.decode(row)}, ensure_ascii=False) for row in asked.prompts.tolist()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def right(model: Model, asked: Asked) -> torch.Tensor:
    """Whether each greedy answer is the one asked for, token by token up to its end, bool [rows]."""
    return _right(model.module(), asked)


@torch.no_grad()
def _right(module: Any, asked: Asked) -> torch.Tensor:
    logits = module(torch.cat([asked.prompts, asked.answers], 1), use_cache=False).logits
    hit = logits[:, LENGTH:-1].argmax(-1) == asked.answers
    until_end = (asked.answers == SPECIAL.index(END)).cumsum(1).cumsum(1) <= 1
    return (hit | ~until_end).all(1)
