"""Tokenizers survive: the same ids in llama.cpp, the same files when the GGUF is opened again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds_of_tokenizers as kinds
import pytest

from featherweight.core.errors import FormatError
from featherweight.core.gguf_companions import pack_files, unpack_files
from featherweight.core.gguf_file import tokenizer_fields
from featherweight.core.gguf_metadata import read_gguf
from featherweight.core.model import COMPANIONS
from featherweight.core.source import open_folder, open_model
from featherweight.export.checked import export_gguf
from featherweight.export.gguf import write_gguf
from featherweight.export.gguf_tokenizer import PRE, tokenizer_of
from featherweight.measure.llama_runtime import serve
from featherweight.testing.tiny import tiny_model

KNOWN: dict[str, tuple[Callable[[], Any], str, str]] = {
    "GPT-2": (kinds.byte_level, "gpt2", "gpt-2"),
    "Llama 3": (lambda: kinds.byte_level(kinds.LLAMA3, bos=True), "gpt2", "llama-bpe"),
    "Qwen": (lambda: kinds.byte_level(kinds.QWEN2), "gpt2", "qwen2"),
    "Llama 2": (kinds.sentencepiece_like, "llama", "default"),
    "Gemma": (lambda: kinds.sentencepiece_like(prefix_space=False), "llama", "default"),
}


def with_tokenizer(folder: Path, source: Path, tokenizer: Any) -> Path:
    """A copy of a model with another tokenizer."""
    target = folder / "model"
    shutil.copytree(source, target)
    for name in COMPANIONS:
        (target / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(target)
    return target


@pytest.mark.parametrize("kind", KNOWN)
def test_tokenizer_survives(kind: str, tiny: Path, tmp_path: Path) -> None:
    make, family, pre = KNOWN[kind]
    model = open_folder(with_tokenizer(tmp_path, tiny, make()))
    export_gguf(model, tmp_path / "model.gguf")
    file = read_gguf(tmp_path / "model.gguf")
    assert file.get("tokenizer.ggml.model") == family
    assert file.get(PRE) == pre
    reopened = open_model(tmp_path / "model.gguf", tmp_path / "cache")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (reopened.folder / name).read_bytes() == (model.folder / name).read_bytes()


@pytest.mark.parametrize("kind", KNOWN)
def test_special_tokens_are_added_alike(kind: str, tiny: Path, tmp_path: Path) -> None:
    model = open_folder(with_tokenizer(tmp_path, tiny, KNOWN[kind][0]()))
    write_gguf(model, tmp_path / "model.gguf")
    with serve(tmp_path / "model.gguf", threads=1) as runtime:
        for text in ("Hello world", " 12 x"):
            assert runtime.tokenize(text, special=True) == model.tokenizer(text)["input_ids"]


def test_no_way_to_split_alike_is_an_error(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(with_tokenizer(tmp_path, tiny, kinds.of_single_characters()))
    with pytest.raises(FormatError, match=r"other token ids under each of the .* for example for 'Hello world'"):
        export_gguf(model, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_unknown_kinds_are_refused(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(with_tokenizer(tmp_path, tiny, kinds.over_characters()))
    with pytest.raises(FormatError, match="BPE over characters"):
        export_gguf(model, tmp_path / "model.gguf")


def test_model_without_a_tokenizer(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(FormatError, match=r"has no tokenizer\.json"):
        write_gguf(open_folder(tmp_path / "model"), tmp_path / "model.gguf")


def test_fewer_tokens_than_rows(models_folder: Path, tmp_path: Path) -> None:
    """Rows of the embedding without a token get unused ones; the tokenizer comes back without them."""
    model = open_folder(tiny_model(models_folder, vocab_size=576))
    export_gguf(model, tmp_path / "model.gguf")
    file = read_gguf(tmp_path / "model.gguf")
    assert len(file.get("tokenizer.ggml.tokens")) == 576
    assert file.get("tokenizer.ggml.token_type")[-1] == 5
    assert len(open_model(tmp_path / "model.gguf", tmp_path / "cache").tokenizer) == 512


def test_phi_in_the_name_is_harmless(models_folder: Path, tmp_path: Path) -> None:
    """llama.cpp demands certain tokens of whatever is called Phi-3."""
    shutil.copytree(tiny_model(models_folder), tmp_path / "my-phi-3-mini")
    export_gguf(open_folder(tmp_path / "my-phi-3-mini"), tmp_path / "model.gguf")


def test_reexport_keeps_the_fields_of_the_first_file(tiny: Path, tmp_path: Path) -> None:
    write_gguf(open_folder(tiny), tmp_path / "first.gguf")
    reopened = open_model(tmp_path / "first.gguf", tmp_path / "cache")
    write_gguf(reopened, tmp_path / "second.gguf")
    first, second = (tokenizer_fields(read_gguf(tmp_path / f"{name}.gguf")) for name in ("first", "second"))
    assert first == second
    assert (tmp_path / "first.gguf").stat().st_size == (tmp_path / "second.gguf").stat().st_size


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("listed", ["pairs", "strings"])
def test_tokenizer_file_is_restored_byte_for_byte(indent: int | None, listed: str, tiny: Path, tmp_path: Path) -> None:
    source = with_tokenizer(tmp_path, tiny, kinds.byte_level())
    data = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    if listed == "strings":
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    (source / "tokenizer.json").write_text(text, encoding="utf-8")
    tokenizer = tokenizer_of(open_folder(source))
    assert tokenizer.files is not None
    assert len(tokenizer.files) < len(text) / 4
    (tmp_path / "again").mkdir()
    unpack_files(tokenizer.files, tokenizer.fields, tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_text(encoding="utf-8") == text


def test_a_file_that_cannot_be_restored_is_left_out(tiny: Path, tmp_path: Path) -> None:
    source = with_tokenizer(tmp_path, tiny, kinds.byte_level())
    fields = tokenizer_of(open_folder(source)).fields
    path = source / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert pack_files(source, fields) is None
