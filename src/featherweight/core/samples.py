"""Samples to train on, as a person writes them: a file of chats, of prompts with completions, or of texts.

A .jsonl line holds "messages" (a chat), "prompt" and "completion", or "text"; any other file is one text. Samples are
split by the hash of what they say: the same ones are held out every time, and a repeated one is on one side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.shares import hash_rank
from featherweight.core.user_file import numbered_lines, read_text

Message = Mapping[str, Any]
_MEND = "write lines with 'messages', with 'prompt' and 'completion', or with 'text'"


@dataclass(frozen=True)
class Sample:
    """One line of a file, or all of it.

    Attributes:
        where: file and line, for errors.
        messages: of a chat; empty in the other cases.
        prompt: what comes before the text and is not trained on.
        text: what is trained on.
    """

    where: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    text: str = ""

    @property
    def key(self) -> str:
        """What it says, whatever line it stands on."""
        return json.dumps([list(self.messages), self.prompt, self.text], sort_keys=True)


def read_samples(path: str | Path) -> list[Sample]:
    """The samples of a file.

    Raises:
        DataError: missing, not UTF-8, empty, or a line that is none of the three kinds.
    """
    source = Path(path)
    text = read_text(source, f"data {str(path)!r}", "give a .jsonl file of chats or texts, or a .txt file")
    if not text.strip():
        raise DataError(str(source), "is empty", _MEND)
    if source.suffix != ".jsonl":
        return [Sample(str(source), text=text)]
    return [_sample(line, f"{source} line {number}") for number, line in numbered_lines(text)]


def _sample(line: str, where: str) -> Sample:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(where, f"is no JSON ({error.msg})", "write one JSON object a line") from None
    if not isinstance(record, dict):
        raise DataError(where, "is no JSON object", _MEND)
    if "messages" in record:
        return Sample(where, messages=_messages(record["messages"], where))
    for first, second in (("prompt", "completion"), ("", "text")):
        if second in record and (not first or first in record):
            texts = [record[first] if first else "", record[second]]
            if not all(isinstance(each, str) for each in texts):
                raise DataError(where, f"has a '{second}' or '{first}' that is no text", _MEND)
            return Sample(where, prompt=texts[0], text=texts[1])
    found = ", ".join(repr(key) for key in list(record)[:5]) or "nothing"
    raise DataError(where, f"holds {found}", _MEND)


def _messages(given: Any, where: str) -> tuple[Message, ...]:
    mend = "give each message a 'role' and a 'content', both text"
    if not isinstance(given, list) or not given:
        raise DataError(where, "has 'messages' that are no list of messages", mend)
    for number, message in enumerate(given, 1):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}, message {number}", "has no role or no content", mend)
    if not any(message["role"] == "assistant" for message in given):
        raise DataError(where, "has no assistant turn, so there is nothing to learn", "add the answer, or leave it out")
    return tuple(given)


def split_samples(samples: Sequence[Sample], share: float, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and samples that are held out, both in the order in which they came.

    Args:
        samples: all of them.
        share: of the different samples, that is held out: one at least, unless it is 0.
        seed: decides which.

    Raises:
        DataError: there are fewer than two different ones.
    """
    if not share:
        return list(samples), []
    different = sorted({sample.key for sample in samples}, key=lambda key: hash_rank(key, seed))
    if len(different) < 2:
        raise DataError(
            samples[0].where if samples else "data", "is the only sample, so none can be held out",
            "give more, or hold none out",
        )  # fmt: skip
    count = min(max(1, round(share * len(different))), len(different) - 1)
    held = set(different[:count])
    return [each for each in samples if each.key not in held], [each for each in samples if each.key in held]
