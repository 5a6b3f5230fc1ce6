"""Prompts, and what models themselves answer to them: training data without labels.

Prompts are a user's own (a .jsonl file) or the beginnings of the calibration rows. Two models asked with one seed draw
their tokens from the same random numbers, so that their answers differ where the models differ and not by luck.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.sampling import BATCH, Draw, continue_tokens
from featherweight.core.technique import Technique
from featherweight.core.template import prompt_ids, user_turn
from featherweight.core.user_file import digest_of, numbered_lines, read_text

Ids = tuple[int, ...]
_FEWEST = 2


class AsksModels(Technique):
    """Base of the techniques that learn from a model's own answers."""

    prompts: str | None = Field(
        None, description="a .jsonl file with 'prompt' or 'messages' a line; none = beginnings of the calibration rows"
    )
    count: int = Field(256, ge=_FEWEST, description="most prompts that are used")
    prompt_tokens: int = Field(512, ge=1, description="longest prompt; of a longer one the end is kept")
    answer_tokens: int = Field(64, ge=1, description="longest answer")
    temperature: float = Field(1.0, ge=0, description="at which answers are sampled; 0 = the likeliest tokens")

    def outside(self) -> dict[str, str]:
        path = Path(self.prompts or "")
        return {"prompts": digest_of(path)} if path.is_file() else {}

    def questions(self, model: Model, run: Run) -> list[Ids]:
        """The prompts as token ids, each once.

        Raises:
            DataError: no calibration text, or a file without prompts.
        """
        if self.prompts is not None:
            asked = [_encoded(model.tokenizer, each) for each in read_prompts(self.prompts)]
        else:
            rows = run.tokens(self.name).ids
            asked = rows[:, : max(1, rows.shape[1] // 2)].tolist()
        found = list(dict.fromkeys(tuple(each[-self.prompt_tokens :]) for each in asked if each))[: self.count]
        if len(found) < _FEWEST:
            raise DataError(
                self.prompts or f"calibration text of {self.name}", f"gives {len(found)} different prompts",
                f"give at least {_FEWEST}, better some hundreds",
            )  # fmt: skip
        return found

    def answers(self, model: Model, questions: Sequence[Ids], run: Run) -> list[Ids]:
        """What a model answers to each prompt, up to and with the end of its turn; kept in the run's store."""
        facts = {
            "model": model.fingerprint, "questions": list(questions), "length": self.answer_tokens,
            "temperature": self.temperature, "seed": run.seed,
        }  # fmt: skip
        found = run.store.json("answers", facts, lambda: self._ask(model, questions, run))
        return [tuple(each) for each in found]

    def _ask(self, model: Model, questions: Sequence[Ids], run: Run) -> list[list[int]]:
        module, end = model.module().to(run.device), model.tokenizer.eos_token_id
        batches = [questions[first : first + BATCH] for first in range(0, len(questions), BATCH)]
        answers: list[list[int]] = []
        with run.progress.track("asking", len(batches)) as advance, torch.inference_mode():
            for number, batch in enumerate(batches):
                generator = run.generator(f"answers {number}")
                answers += continue_tokens(
                    module, batch, self.answer_tokens, end, generator, Draw(self.temperature), until_all_end=True
                )
                advance()
        return answers


def _encoded(tokenizer: Any, prompt: str | list[dict[str, Any]]) -> list[int]:
    """A prompt in the model's chat template where it has one, else as plain text with the usual special tokens."""
    return prompt_ids(tokenizer, user_turn(prompt) if isinstance(prompt, str) else prompt)


def read_prompts(source: str) -> list[str | list[dict[str, Any]]]:
    """Prompts, or the messages of chats that wait for an answer, from a .jsonl file.

    Raises:
        DataError: it is missing, empty, no text, or a line is something else.
    """
    path = Path(source)
    text = read_text(path, f"prompts {source!r}", "give a .jsonl file with one prompt a line")
    found = [_prompt(line, f"{path} line {number}") for number, line in numbered_lines(text)]
    if not found:
        raise DataError(str(path), "is empty", 'write lines such as {"prompt": "How do I boil an egg?"}')
    return found


def _prompt(line: str, where: str) -> str | list[dict[str, Any]]:
    try:
        record = json.loads(line)
        if isinstance(record.get("prompt"), str) and record["prompt"]:
            return str(record["prompt"])
        messages = record["messages"]
        if messages and all(isinstance(each["role"], str) and isinstance(each["content"], str) for each in messages):
            return list(messages)
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
        pass
    raise DataError(where, "has neither a 'prompt' nor 'messages'", "write one JSON object a line")
