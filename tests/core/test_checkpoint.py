"""Checkpoints: fingerprints, sharding, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.core import shards
from featherweight.core.errors import CheckpointError, UnsupportedArchitecture
from featherweight.core.formats import get
from featherweight.core.source import open_folder, open_model
from featherweight.testing.tiny import tiny_model, write_json


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_saved_model_has_the_same_fingerprint(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(tiny)
    model.save(tmp_path / "saved")
    assert open_folder(tmp_path / "saved").fingerprint == model.fingerprint


def test_sharded_equals_single(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_folder(tiny)
    monkeypatch.setattr(shards, "SHARD_BYTES", 100_000)
    model.save(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert open_folder(tmp_path / "sharded").fingerprint == model.fingerprint


def test_one_unit_in_the_last_place_changes_it(copy: Path) -> None:
    before = open_folder(copy).fingerprint
    tensors = load_file(copy / "model.safetensors")
    weight = tensors["model.layers.0.mlp.up_proj.weight"]
    weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(torch.inf))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert open_folder(copy).fingerprint != before


def test_tokenizer_and_template_belong_to_it(copy: Path) -> None:
    before = open_folder(copy).fingerprint
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert open_folder(copy).fingerprint != before


def test_rounded_tensors_survive_saving(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(tiny)
    name = "model.layers.0.mlp.down_proj.weight"
    changed = model.with_changes({name: get("Q4_K").fit(model.tensor(name))})
    changed.save(tmp_path / "packed")
    again = open_folder(tmp_path / "packed")
    assert again.fingerprint == changed.fingerprint
    assert again.entries[name].format == "Q4_K"
    assert torch.equal(again.tensor(name), changed.tensor(name))


def test_model_is_immutable(tiny: Path) -> None:
    model = open_folder(tiny)
    before = model.fingerprint
    model.with_changes({"model.norm.weight": torch.zeros(64)}, config={"vocab_size": 7})
    assert model.fingerprint == before
    assert model.config["vocab_size"] == 512


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes(models_folder: Path, dtype: str) -> None:
    model = open_folder(tiny_model(models_folder, dtype=dtype))
    assert {entry.format for entry in model.entries.values()} == {"BF16" if dtype == "bfloat16" else "F16"}
    assert model.tensor("model.norm.weight").dtype == torch.float32


def test_tied_and_untied(models_folder: Path) -> None:
    tied = open_folder(tiny_model(models_folder, tie_word_embeddings=True))
    assert "lm_head.weight" not in tied.entries
    untied = open_folder(tiny_model(models_folder))
    assert "lm_head.weight" in untied.entries
    ids = torch.arange(10).reshape(1, 10)
    for model in (tied, untied):
        assert bool(model.module()(ids).logits.isfinite().all())


class TestBadInput:
    """Each wrong folder is named, with the reason and the mend."""

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="does not exist"):
            open_model(tmp_path / "nothing")

    def test_not_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            open_model(tmp_path)
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(CheckpointError, match="is not a model"):
            open_model(tmp_path / "notes.txt")

    def test_broken_config(self, copy: Path) -> None:
        (copy / "config.json").write_text('{"model_type": ')
        with pytest.raises(CheckpointError, match="not valid JSON"):
            open_model(copy)

    def test_no_weights(self, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="no safetensors file"):
            open_model(copy)

    @pytest.mark.parametrize("keep", [4, 200, -100])
    def test_truncated(self, copy: Path, keep: int) -> None:
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match=r"truncated|cut off"):
            open_model(copy)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_nan_weights(self, copy: Path, value: float) -> None:
        tensors = load_file(copy / "model.safetensors")
        tensors["model.norm.weight"][0] = value
        save_file(tensors, copy / "model.safetensors")
        with pytest.raises(CheckpointError, match="NaN or infinite"):
            _ = open_model(copy).fingerprint

    def test_unsupported_architecture(self, copy: Path) -> None:
        write_json(copy / "config.json", {"model_type": "mamba"})
        with pytest.raises(UnsupportedArchitecture, match=r"'mamba' is not supported; use one of .*llama"):
            open_model(copy)

    def test_missing_shard(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shards, "SHARD_BYTES", 100_000)
        open_folder(tiny).save(tmp_path / "sharded")
        next((tmp_path / "sharded").glob("model-00002-*")).unlink()
        with pytest.raises(CheckpointError, match="lacks the shard"):
            open_model(tmp_path / "sharded")

    def test_missing_tensor(self, copy: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, copy / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"lacks the tensor model\.norm\.weight"):
            open_model(copy)

    def test_shape_against_config(self, copy: Path) -> None:
        write_json(copy / "config.json", {"intermediate_size": 128})
        with pytest.raises(CheckpointError, match=r"where its config\.json says"):
            open_model(copy)

    def test_pickle_only(self, copy: Path) -> None:
        torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="trust-remote-code"):
            open_model(copy)
        assert open_model(copy, trust=True).parameters > 0

    def test_hub_name_without_network(self) -> None:
        with pytest.raises(CheckpointError, match="cannot be had from the hub"):
            open_model("somebody/some-model-that-is-not-there")


def test_config_volatile_keys_do_not_count(copy: Path) -> None:
    before = open_folder(copy).fingerprint
    config = json.loads((copy / "config.json").read_text())
    write_json(copy / "config.json", {"transformers_version": "0", "_name_or_path": "elsewhere"})
    assert open_folder(copy).fingerprint == before
    write_json(copy / "config.json", {"rms_norm_eps": config["rms_norm_eps"] * 2})
    assert open_folder(copy).fingerprint != before
