"""The check that is part of every export: right files pass, wrong ones are named and not kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kinds_of_tokenizers as kinds
import pytest
import torch
from rounding import all_in, linears_in

from featherweight.core.errors import CheckpointError, OutputError
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.core.whole import whole_folder
from featherweight.export import checked
from featherweight.export.gguf import as_stored, write_gguf
from featherweight.export.hugging_face import as_stored as as_stored_in_folder
from featherweight.export.hugging_face import write_hugging_face
from featherweight.export.reload import check_reload


def changed(model: Model, name: str, values: torch.Tensor) -> Model:
    return model.with_changes({name: values})


def swapped(model: Model) -> Model:
    """Two tensors in each other's place."""
    gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    return model.with_changes({gate: model.stored(up), up: model.stored(gate)})


def test_a_right_file_passes(tiny: Path, tmp_path: Path) -> None:
    model = as_stored(all_in(open_folder(tiny), "Q8_0"))
    write_gguf(model, tmp_path / "model.gguf")
    found = check_reload(model, tmp_path / "model.gguf")
    assert 0 <= found.difference < 1e-3
    assert found.predictions == 6
    assert found.texts > 30


def test_wrong_tensors_in_a_gguf_file(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(tiny)
    write_gguf(swapped(model), tmp_path / "model.gguf")
    with pytest.raises(OutputError, match=r"llama.cpp's predictions are .* nats from the model's, 0.01 allowed"):
        check_reload(as_stored(model), tmp_path / "model.gguf")


def test_wrong_rows_in_a_gguf_file(tiny: Path, tmp_path: Path) -> None:
    """The interleaving of rotary pairs forgotten in one matrix."""
    model = open_folder(tiny)
    name = "model.layers.0.self_attn.q_proj.weight"
    rows = model.tensor(name).reshape(4, 16, 2, -1).transpose(1, 2).reshape(model.entries[name].shape)
    write_gguf(changed(model, name, rows), tmp_path / "model.gguf")
    with pytest.raises(OutputError, match="nats from the model's"):
        check_reload(as_stored(model), tmp_path / "model.gguf")


def test_wrong_tokenizer_in_a_gguf_file(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(tiny)
    write_gguf(model, tmp_path / "model.gguf")
    shutil.copytree(tiny, tmp_path / "other")
    kinds.byte_level().save_pretrained(tmp_path / "other")
    with pytest.raises(OutputError, match=r"splits .* into other tokens"):
        check_reload(as_stored(open_folder(tmp_path / "other")), tmp_path / "model.gguf")


def test_truncated_gguf_file(tiny: Path, tmp_path: Path) -> None:
    write_gguf(open_folder(tiny), tmp_path / "model.gguf")
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cannot be loaded by llama.cpp .*not within the file bounds"):
        check_reload(open_folder(tiny), tmp_path / "model.gguf")


def test_wrong_tensors_in_a_folder(tiny: Path, tmp_path: Path) -> None:
    model = linears_in(open_folder(tiny), "int4-g32")
    with whole_folder(tmp_path / "out") as draft:
        write_hugging_face(swapped(model), draft)
    with pytest.raises(OutputError, match=r"logits that differ by up to .*, 0.001 allowed"):
        check_reload(as_stored_in_folder(model), tmp_path / "out")


def test_wrong_quantization_config(tiny: Path, tmp_path: Path) -> None:
    model = linears_in(open_folder(tiny), "int4-g32")
    with whole_folder(tmp_path / "out") as draft:
        write_hugging_face(model, draft)
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises((OutputError, CheckpointError)):
        check_reload(as_stored_in_folder(model), tmp_path / "out")


def test_wrong_tokenizer_in_a_folder(tiny: Path, tmp_path: Path) -> None:
    model = open_folder(tiny)
    with whole_folder(tmp_path / "out") as draft:
        write_hugging_face(model, draft)
    kinds.byte_level().save_pretrained(tmp_path / "out")
    with pytest.raises(OutputError, match="its tokenizer splits"):
        check_reload(as_stored_in_folder(model), tmp_path / "out")


def test_an_export_that_fails_its_check_is_not_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are set so that nothing passes; everything else is real."""
    monkeypatch.setattr("featherweight.export.reload.DIVERGENCE_OF_FLOATS", -1.0)
    monkeypatch.setattr("featherweight.export.reload.LOGITS", -1.0)
    for export, target in ((checked.export_gguf, "model.gguf"), (checked.export_hugging_face, "model")):
        with pytest.raises(OutputError, match="the export was not kept"):
            export(open_folder(tiny), tmp_path / target)
    assert not list(tmp_path.iterdir())
