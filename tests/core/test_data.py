"""Text: where it comes from, that splits never overlap, and what is wrong with bad files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.data import SPLITS, default_documents, read_documents, split_documents, tokenize
from featherweight.core.errors import DataError, MissingExtra
from featherweight.testing.tiny import tiny_tokenizer


def test_default_text_is_there() -> None:
    documents = default_documents()
    assert set(documents) == {"prose", "code"}
    assert sum(map(len, documents["prose"])) > 300_000


@given(st.lists(st.text(min_size=1), min_size=1, max_size=60), st.integers(0, 3))
def test_splits_are_disjoint_and_complete(texts: list[str], seed: int) -> None:
    splits = split_documents({"all": texts}, seed)
    parts = [set(splits[name]["all"]) for name in SPLITS]
    assert set.union(*parts) == set(texts)
    assert sum(map(len, parts)) == len(set(texts))


def test_order_of_documents_does_not_matter() -> None:
    texts = [f"document {i}" for i in range(40)]
    assert split_documents({"all": texts}) == split_documents({"all": texts[::-1]})


def test_rows_are_full_and_even() -> None:
    rows = tokenize(default_documents(), tiny_tokenizer(), rows=10, length=64)
    assert tuple(rows.ids.shape) == (10, 64)
    assert [rows.domains.count(domain) for domain in ("prose", "code")] == [5, 5]
    assert len(set(rows.documents)) == 10
    assert rows.digest == tokenize(default_documents(), tiny_tokenizer(), rows=10, length=64).digest
    assert rows.rows([1, 0]).digest != rows.rows([0, 1]).digest
    assert [rows.spread(4).domains.count(domain) for domain in ("prose", "code")] == [2, 2]


def test_short_documents_follow_each_other() -> None:
    rows = tokenize(
        {"short": ["One sentence."] * 1 + [f"Sentence number {i}." for i in range(200)]}, tiny_tokenizer(), 4, 64
    )
    assert rows.ids.shape[0] == 4
    assert len(set(rows.documents)) == 4


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("line\n" * 3000)
    assert list(read_documents(str(tmp_path / "notes.txt"))) == ["notes"]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    lines = [{"text": "plain"}, {"messages": chat}, {"text": "other", "domain": "law"}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    documents = read_documents(str(tmp_path / "mixed.jsonl"))
    assert set(documents) == {"mixed", "law"}
    assert len(documents["mixed"]) == 2


def test_chat_is_formatted_by_the_models_template(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Tell me more"}, {"role": "assistant", "content": "Gladly. " * 20}]
    (tmp_path / "chat.jsonl").write_text("\n".join([json.dumps({"messages": chat})] * 30))
    tokenizer = tiny_tokenizer()
    rows = tokenize(read_documents(str(tmp_path / "chat.jsonl")), tokenizer, 3, 48)
    assert tokenizer.decode(rows.ids[0]).startswith("<|start|>user\nTell me more<|end|>\n<|start|>assistant")


class TestBadInput:
    def test_missing(self) -> None:
        with pytest.raises(DataError, match="does not exist"):
            read_documents("nowhere.txt")

    @pytest.mark.parametrize("text", ["", "   \n\n"])
    def test_empty(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "empty.txt").write_text(text)
        with pytest.raises(DataError, match="is empty"):
            read_documents(str(tmp_path / "empty.txt"))

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xff")
        with pytest.raises(DataError, match="not UTF-8"):
            read_documents(str(tmp_path / "binary.txt"))

    @pytest.mark.parametrize("line", ['{"txt": "x"}', "not json", '["text"]', "3"])
    def test_bad_line_is_numbered(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n' + line)
        with pytest.raises(DataError, match="line 2"):
            read_documents(str(tmp_path / "bad.jsonl"))

    def test_too_short(self) -> None:
        with pytest.raises(DataError, match=r"the held-out text: is too short: \d+ tokens"):
            tokenize({"all": ["A few words."]}, tiny_tokenizer(), 4, 64, "the held-out text")

    def test_dataset_without_the_extra(self) -> None:
        pytest.importorskip("torch")
        try:
            import datasets  # noqa: F401
        except ImportError:
            with pytest.raises(MissingExtra, match=r"featherweight\[data\]"):
                read_documents("hf:wikitext")
