"""Configurations made from GGUF metadata alone, as for a file from elsewhere, compute the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from featherweight.core.errors import CheckpointError, UnsupportedArchitecture
from featherweight.core.gguf_companions import CONFIG
from featherweight.core.gguf_config import config_of
from featherweight.core.gguf_file import add_fields
from featherweight.core.gguf_metadata import Field, GgufFile, read_gguf
from featherweight.core.model import Model
from featherweight.core.source import open_folder, open_model
from featherweight.export.gguf import as_stored, write_gguf
from featherweight.testing.tiny import tiny_model


def foreign(model: Model, folder: Path) -> GgufFile:
    """A file of a model as another program would have written it: without our configuration."""
    path = folder / "model.gguf"
    path.unlink(missing_ok=True)
    write_gguf(model, path)
    file = read_gguf(path)
    return GgufFile(path, {key: field for key, field in file.fields.items() if key != CONFIG}, file.tensors)


def assert_same_function(model: Model, config: dict[str, Any]) -> None:
    stored = as_stored(model)
    tokens = torch.arange(3, 203)[None]
    expected = stored.module()(tokens).logits
    found = Model(config, stored.entries, stored.folder).module()(tokens).logits
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"num_hidden_layers": 7}], ids=str)
def test_every_architecture(
    changes: dict[str, Any], any_architecture: Path, models_folder: Path, tmp_path: Path
) -> None:
    model_type = any_architecture.name.split("-")[0]
    model = open_folder(tiny_model(models_folder, model_type, **changes))
    config = config_of(foreign(model, tmp_path))
    assert config["tie_word_embeddings"] == model.architecture.tied
    assert config["rms_norm_eps"] == model.settings["rms_norm_eps"]
    assert_same_function(model, config)


def rope(kind: str, **facts: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, "rope_type": kind, **facts}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("qwen3", rope("linear", factor=4.0)),
    "yarn": ("qwen2", rope("yarn", factor=8.0, original_max_position_embeddings=64, attention_factor=1.5)),
    "llama3": ("llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=8192)),
    "longrope": ("phi3", {**rope("longrope", long_factor=[1.5 + i for i in range(16)], short_factor=[1.25] * 16,
                                 partial_rotary_factor=1.0),
                          "original_max_position_embeddings": 128, "max_position_embeddings": 512}),
    "windows": ("gemma3_text", {"num_hidden_layers": 4, "sliding_window": 16, "layer_types": [
        "full_attention", "sliding_attention", "sliding_attention", "full_attention"]}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_particulars(case: str, models_folder: Path, tmp_path: Path) -> None:
    model_type, changes = CASES[case]
    model = open_folder(tiny_model(models_folder, model_type, **changes))
    assert_same_function(model, config_of(foreign(model, tmp_path)))


def _file(tmp_path: Path, architecture: str, fields: dict[str, Field]) -> GgufFile:
    writer = gguf.GGUFWriter(tmp_path / "file.gguf", architecture)
    add_fields(writer, fields)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return read_gguf(tmp_path / "file.gguf")


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedArchitecture, match="'mamba' is not supported; use one of gemma3_text, llama"):
        config_of(_file(tmp_path, "mamba", {}))


@pytest.mark.parametrize(
    ("value", "reason"), [(None, "head_count is missing"), (Field([4, 2], 9, 4), "differs between blocks")], ids=str
)
def test_metadata_that_cannot_be_used(value: Field | None, reason: str, tmp_path: Path) -> None:
    fields = {} if value is None else {"llama.attention.head_count": value}
    with pytest.raises(CheckpointError, match=reason):
        config_of(_file(tmp_path, "llama", fields))


def test_rotary_factors_of_an_unknown_kind(models_folder: Path, tmp_path: Path) -> None:
    """Llama 3's scaling with another original length is written rightly, but cannot be recognised in the tensor."""
    scaling = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    with pytest.raises(CheckpointError, match="rotary factors of an unknown kind"):
        config_of(foreign(open_folder(tiny_model(models_folder, "llama", **scaling)), tmp_path))


def test_a_missing_tensor_is_named(tiny: Path, tmp_path: Path) -> None:
    write_gguf(open_folder(tiny).with_changes(drop=["model.layers.1.mlp.up_proj.weight"]), tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"lacks the tensor blk.1.ffn_up.weight; download it again"):
        open_model(tmp_path / "model.gguf", tmp_path / "cache")


def test_a_tensor_too_many_is_named(models_folder: Path, tmp_path: Path) -> None:
    """Biases that the configuration does not speak of would be left out silently."""
    model = open_folder(tiny_model(models_folder, "llama", attention_bias=True))
    write_gguf(model.with_changes(config={"attention_bias": False}), tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match=r"holds the tensor blk.0.attn_k.bias"):
        open_model(tmp_path / "model.gguf", tmp_path / "cache")
