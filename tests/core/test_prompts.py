"""Prompt logs: reading, padding, and the split that keeps words apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.core.prompts import padded, read_prompts, split_prompts, words
from featherweight.testing.encoders import phrases


def test_lines_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("red dog\n\n  blue cat \nred dog\n")
    assert read_prompts(tmp_path / "log.txt") == ["red dog", "blue cat", "red dog"]
    (tmp_path / "log.jsonl").write_text('{"prompt": "red dog"}\n{"text": "blue cat"}\n')
    assert read_prompts(tmp_path / "log.jsonl") == ["red dog", "blue cat"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("log.txt", "one prompt\n", "holds 1 prompt, from which no distribution"),
        ("log.txt", "", "holds 0 prompts"),
        ("log.jsonl", '{"prompt": "fine"}\n{"promt": "not"}\n', "line 2: has neither 'prompt' nor 'text'"),
        ("log.jsonl", "[1]\n[2]\n", "line 1: has neither"),
    ],
)
def test_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        read_prompts(tmp_path / name)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "log.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_prompts(tmp_path / "log.txt")


@given(st.integers(0, 30), st.floats(0, 0.4), st.floats(0, 0.3))
def test_the_split_keeps_words_apart(seed: int, held_out: float, withhold: float) -> None:
    log = phrases()[::3]
    split = split_prompts([*log, *log[:20]], held_out, withhold, seed)
    known = {word for prompt in split.train for word in words(prompt)}
    assert all(words(prompt) <= known for prompt in split.seen)
    assert all(not words(prompt) <= known for prompt in split.unseen)
    parts = [*split.train, *split.seen, *split.unseen]
    assert len(parts) == len(set(parts))
    assert set(parts) <= set(log)
    assert split == split_prompts(log, held_out, withhold, seed)  # repetitions do not matter


def test_padding() -> None:
    ids, mask = padded([[5, 6], [7]], 9, 3)
    assert ids.tolist() == [[5, 6, 9], [7, 9, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert ids.dtype == torch.int64
