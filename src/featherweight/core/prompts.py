"""A log of prompts: what people really sent to a text encoder, read from a file, as token ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.shares import hash_rank
from featherweight.core.user_file import numbered_lines, read_text

_FEWEST = 2  # of one prompt no share, no spread and no held-out part can be told


def read_prompts(path: str | Path) -> list[str]:
    """Prompts as they were logged, repetitions included: one a line, or "prompt" or "text" of each .jsonl line.

    Raises:
        DataError: missing, unreadable, a line without a prompt, or fewer than two prompts.
    """
    source = Path(path)
    text = read_text(source, f"prompt log {str(path)!r}", "give a .txt file with one prompt a line, or .jsonl")
    prompts = [_prompt(source, number, line.strip()) for number, line in numbered_lines(text)]
    if len(prompts) < _FEWEST:
        raise DataError(
            f"prompt log {str(path)!r}",
            f"holds {len(prompts)} prompt{'s' if len(prompts) != 1 else ''}, from which no distribution can be told",
            "give the log of real use: one prompt a line, hundreds where there are",
        )
    return prompts


def _prompt(source: Path, number: int, line: str) -> str:
    if source.suffix != ".jsonl":
        return line
    try:
        record = json.loads(line)
        prompt = str(record["prompt"] if "prompt" in record else record["text"]).strip()
    except (json.JSONDecodeError, KeyError, TypeError):
        prompt = ""
    if not prompt:
        raise DataError(f"{source} line {number}", "has neither 'prompt' nor 'text'", "write one JSON object a line")
    return prompt


@dataclass(frozen=True)
class PromptSplit:
    """Different prompts in three parts.

    Attributes:
        train: to learn from.
        seen: held out; every word occurs in `train`.
        unseen: held out; at least one word occurs nowhere in `train`.
    """

    train: list[str]
    seen: list[str]
    unseen: list[str]


def split_prompts(prompts: Sequence[str], held_out: float = 0.1, withhold: float = 0.1, seed: int = 0) -> PromptSplit:
    """Splits a log so that new phrases of known words and phrases with new words are judged apart.

    Args:
        prompts: as logged.
        held_out: share of the different prompts that is held out.
        withhold: share of the different prompts that is given up so that all prompts with some words can be withheld.
        seed: decides which.
    """
    distinct = sorted(set(prompts), key=lambda prompt: hash_rank(prompt, seed))
    withheld = _withheld_words(distinct, round(withhold * len(distinct)), seed)
    rest = [prompt for prompt in distinct if not withheld & words(prompt)]
    edge = round(held_out * len(distinct))
    candidates, train = rest[:edge], rest[edge:]
    known = set().union(*map(words, train)) if train else set()
    seen = [prompt for prompt in candidates if words(prompt) <= known]
    return PromptSplit(train, seen, [prompt for prompt in distinct if not words(prompt) <= known])


def words(prompt: str) -> set[str]:
    """The different words of a prompt, in lower case."""
    return set(prompt.lower().split())


def _withheld_words(prompts: Sequence[str], limit: int, seed: int) -> set[str]:
    """Words whose prompts together are at most `limit`, in random order; if each has more, the rarest one."""
    counts = Counter(word for prompt in prompts for word in words(prompt))
    chosen: set[str] = set()
    for word in sorted(counts, key=lambda each: hash_rank(each, seed)):
        if counts[word] <= limit:
            chosen.add(word)
            limit -= counts[word]
    if not chosen and limit and counts:
        rarest = min(counts, key=lambda each: (counts[each], hash_rank(each, seed)))
        chosen = {rarest} if 2 * counts[rarest] <= len(prompts) else set()
    return chosen


def token_ids(prompts: Sequence[str], tokenizer: Any, context: int | None = None) -> list[list[int]]:
    """Ids of each prompt with the tokenizer's special tokens, cut to `context` as the tokenizer cuts."""
    # Without a limit tokenizers warn about long prompts, whose length is just what is to be learnt.
    cut = {"truncation": True, "max_length": context} if context else {"truncation": False, "verbose": False}
    return [list(ids) for ids in tokenizer(list(prompts), **cut)["input_ids"]]


def padded(rows: Sequence[Sequence[int]], pad: int, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one batch, padded on the right.

    Args:
        rows: ids of each prompt.
        pad: the padding id.
        length: of the batch; None = that of its longest row.

    Returns:
        Ids and mask, int64 [rows, length].
    """
    length = length or max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[index, : len(row)] = 1
    return ids, mask
