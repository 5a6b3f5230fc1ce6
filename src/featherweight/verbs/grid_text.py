"""Text for a grid: rows of a language model's tokens, rows of characters for backbones trained from nothing."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.data import TokenSet, default_documents, read_documents, split_documents, split_rows
from featherweight.core.errors import DataError
from featherweight.core.labelled import Labelled
from featherweight.core.lazy import torch
from featherweight.train.probe import Question
from featherweight.train.sequence_cells import World

_CHARACTERS, _ASKED, _LEAST = 95, 20, 20  # told apart; asked about; rows of a part at least


def text_rows(text: str | Path | None, tokenizer: Any, rows: int, judged: int, length: int) -> dict[str, TokenSet]:
    """Rows of a text, or of pydoc's prose and the standard library's code, for training, choosing and judging.

    Raises:
        DataError: too little text.
    """
    documents = default_documents() if text is None else read_documents(str(text))
    counts = {"calibration": rows, "selection": judged, "held-out": judged}
    called = "the default text" if text is None else str(text)
    found = split_rows(documents, tokenizer, counts, length, called)
    missing = set(found["held-out"].domains) - set(found["selection"].domains)
    if missing:
        raise DataError(called, f"has no {sorted(missing)[0]!r} in its selection part", "give more of that domain")
    return found


def world_of_text(path: str | Path, length: int) -> World:
    """A text as rows of characters: what comes after a row is asked, for each domain, of rows of other documents.

    Raises:
        DataError: too little text.
    """
    splits = split_documents(read_documents(str(path)))
    alphabet = {each: place + 1 for place, each in enumerate(_commonest(splits["calibration"], _CHARACTERS))}
    asked = "".join(list(alphabet)[:_ASKED])
    learnt = torch.cat([_characters(texts, alphabet, length) for texts in splits["calibration"].values()])
    questions = {}
    for domain, texts in splits["selection"].items():
        known, judged = (_characters(each, alphabet, length + 1) for each in (texts, splits["held-out"][domain]))
        questions[domain] = _next_character(known, judged, asked, f"{path}, {domain}")
    digest = hashlib.sha256(learnt.numpy().tobytes())
    for each in questions.values():
        digest.update(each.inputs.contiguous().numpy().tobytes())
    return World(str(path), digest.hexdigest(), learnt, questions, _CHARACTERS + 1)


def _commonest(documents: Mapping[str, Sequence[str]], count: int) -> list[str]:
    everything = collections.Counter(each for texts in documents.values() for text in texts for each in text)
    return sorted(everything, key=lambda each: (-everything[each], each))[:count]


def _characters(texts: Sequence[str], alphabet: Mapping[str, int], length: int) -> torch.Tensor:
    """Rows of character numbers, 0 for a rare one, int64 [rows, length]; what is left of a text is not used."""
    rows = []
    for text in texts:
        ids = torch.tensor([alphabet.get(each, 0) for each in text], dtype=torch.int64)
        rows.append(ids[: len(ids) // length * length].reshape(-1, length))
    return torch.cat(rows) if rows else torch.empty(0, length, dtype=torch.int64)


def _next_character(known: torch.Tensor, judged: torch.Tensor, asked: str, source: str) -> Question:
    """Which of the commonest characters follows a row; a head learns it on some documents and is judged on others."""
    rows = torch.cat([known, judged])
    counts = [index for index, last in enumerate(rows[:, -1].tolist()) if 1 <= last <= len(asked)]
    names = tuple(asked[int(rows[index, -1]) - 1] for index in counts)
    first = [place for place, index in enumerate(counts) if index < len(known)]
    parts = {
        "training": first[len(first) // 5 :], "validation": first[: len(first) // 5],
        "test": [place for place, index in enumerate(counts) if index >= len(known)],
    }  # fmt: skip
    if any(len(each) < _LEAST for each in parts.values()):
        raise DataError(source, f"gives {len(rows)} rows of {rows.shape[1] - 1} characters to ask about",
                        "give more text, or shorter rows with --length")  # fmt: skip
    return Question(Labelled(rows[counts, :-1], names, source), parts)


def is_text(name: str) -> bool:
    """Whether a name looks like that of a text."""
    return Path(name).suffix in (".txt", ".jsonl")
