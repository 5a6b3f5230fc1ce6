"""Labelled data: what is read, what is refused, and that no input is in two parts."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from featherweight.core.errors import DataError
from featherweight.core.labelled import Labelled, read_labelled


def lines(folder: Path, *rows: object) -> Path:
    path = folder / "labels.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [{"text": f"text {index}", "label": index % 2} for index in range(12)]
    data = read_labelled(lines(tmp_path, *rows, ""))
    assert data.texts == [f"text {index}" for index in range(12)]
    assert data.classes == ("0", "1")
    assert data.targets.tolist() == [0, 1] * 6


@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), st.sampled_from("ab")), min_size=30), st.integers(0, 3))
def test_no_input_is_in_two_parts_and_every_class_in_each(rows: list[tuple[str, str]], seed: int) -> None:
    rows += [(f"{label} {index}", label) for label in "ab" for index in range(10)]
    data = Labelled([text for text, _ in rows], tuple(label for _, label in rows))
    parts = data.parts(seed)
    assert parts == data.parts(seed)
    for label in "ab":
        texts = [[data.texts[row] for row in part if data.labels[row] == label] for part in parts.values()]
        assert all(texts)
        assert sum(map(len, texts)) == len({text for part in texts for text in part})


def test_seeds_draw_other_parts() -> None:
    data = Labelled([str(index) for index in range(40)], ("a", "b") * 20)
    assert data.parts(0) != data.parts(1)


def test_images_are_told_apart_by_their_values() -> None:
    images = torch.arange(20.0).reshape(20, 1, 1, 1).repeat(2, 1, 1, 1)
    parts = Labelled(images, ("a", "b") * 20).parts()
    assert sum(map(len, parts.values())) == 20


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        (["not json"], "line 1: is no JSON object"),
        (["[1]"], "line 1: is no JSON object"),
        ([{"text": "a"}], "line 1: has no 'label'"),
        ([{"text": "a", "label": "b"}, {"label": "b"}], "line 2: has no 'text'"),
        ([{"text": " ", "label": "b"}], "line 1: has no 'text'"),
        ([{"text": "a", "label": None}], "line 1: has no 'label'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(lines(tmp_path, *rows))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_labelled(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\xe9")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_labelled(tmp_path / "latin.jsonl")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a",) * 10, "has one class only, 'a'"),
        (("a",) * 8 + ("b",) * 2, "has 2 different inputs of the class 'b'"),
        ((), "is empty"),
    ],
)
def test_too_few_classes_or_inputs(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Labelled([str(index) for index in range(len(labels))], labels).parts()


def test_copies_of_one_input_count_once() -> None:
    with pytest.raises(DataError, match="has 1 different inputs of the class 'b'"):
        Labelled([*map(str, range(10)), *["same"] * 10], ("a",) * 10 + ("b",) * 10).parts()


def test_one_label_an_input() -> None:
    with pytest.raises(DataError, match="has 2 inputs and 1 labels"):
        Labelled(["a", "b"], ("x",))
