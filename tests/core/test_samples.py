"""Samples: the three kinds of lines, the split, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featherweight.core.errors import DataError
from featherweight.core.samples import Sample, read_samples, split_samples

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def written(folder: Path, *lines: object, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines), encoding="utf-8")
    return path


def test_the_kinds(tmp_path: Path) -> None:
    path = written(tmp_path, CHAT, "", {"prompt": "2+2=", "completion": "4"}, {"text": "A\u2028text."})
    chat, pair, text = read_samples(path)
    assert (chat.messages, chat.where) == (tuple(CHAT["messages"]), f"{path} line 1")
    assert (pair.prompt, pair.text, pair.where) == ("2+2=", "4", f"{path} line 3")
    assert (text.prompt, text.text) == ("", "A\u2028text.")
    assert read_samples(written(tmp_path, "Plain.", name="a.txt")) == [Sample(str(tmp_path / "a.txt"), text="Plain.")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{no", r"line 2: is no JSON"),
        ([1], r"line 2: is no JSON object"),
        ({"question": 1}, r"line 2: holds 'question'"),
        ({"prompt": 1, "completion": "x"}, r"line 2: has a 'completion' or 'prompt' that is no text"),
        ({"messages": []}, r"line 2: has 'messages' that are no list"),
        ({"messages": [{"role": "user"}]}, r"line 2, message 1: has no role or no content"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, r"line 2: has no assistant turn"),
    ],
)
def test_bad_lines(tmp_path: Path, line: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_samples(written(tmp_path, CHAT, line))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_samples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read_samples(written(tmp_path, " "))
    (tmp_path / "latin.jsonl").write_bytes('{"text": "\xe4"}'.encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_samples(tmp_path / "latin.jsonl")


def test_the_split_depends_on_what_samples_say() -> None:
    samples = [Sample(f"line {n}", text=f"text {n % 20}") for n in range(40)]
    train, held = split_samples(samples, 0.1)
    assert {each.text for each in train}.isdisjoint(each.text for each in held)
    assert len(held) == 4  # two different ones, twice each
    again = split_samples(samples[::-1], 0.1)[1]
    assert sorted(each.key for each in again) == sorted(each.key for each in held)
    assert split_samples(samples, 0.1, seed=1)[1] != held
    assert split_samples(samples, 0) == (samples, [])
    with pytest.raises(DataError, match="is the only sample"):
        split_samples(samples[:1], 0.1)
