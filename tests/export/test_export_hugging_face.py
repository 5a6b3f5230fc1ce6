"""Hugging Face folders load in stock transformers with the same logits, and open again as the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rounding import linears_in, rounded

from featherweight.core.architecture import EMBEDDING, HEAD
from featherweight.core.checkpoint import read_config
from featherweight.core.errors import CheckpointError, FormatError
from featherweight.core.formats import PACKED_INTEGERS, get
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.export.checked import export_hugging_face
from featherweight.export.hugging_face import as_stored, hugging_face_size, write_hugging_face
from featherweight.testing.tiny import tiny_model, write_json

MIXED = ("int4-g32", "int8-channel", "int4-g64", "F32", "int8-g32")


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def mixed(model: Model) -> dict[str, str]:
    """Symmetric formats in turn, every fifth linear left plain."""
    return {name: MIXED[i % len(MIXED)] for i, name in enumerate(model.architecture.linears())}


def test_plain_folder(any_architecture: Path, tmp_path: Path) -> None:
    model = open_folder(any_architecture)
    assert export_hugging_face(model, tmp_path / "out").difference == 0
    config = read_config(tmp_path / "out")
    assert "quantization_config" not in config
    assert config["architectures"] == [model.architecture.class_name]
    assert not (tmp_path / "out" / "featherweight.json").exists()
    assert open_folder(tmp_path / "out").fingerprint == as_stored(model).fingerprint
    assert hugging_face_size(model) == weight_bytes(tmp_path / "out")


def test_mixed_formats(any_architecture: Path, tmp_path: Path) -> None:
    plain = open_folder(any_architecture)
    model = rounded(plain, mixed(plain))
    assert export_hugging_face(model, tmp_path / "out").difference < 1e-3
    groups = read_config(tmp_path / "out")["quantization_config"]["config_groups"]
    assert len(groups) == len(set(mixed(plain).values()) - {"F32"})
    reopened = open_folder(tmp_path / "out")
    assert reopened.fingerprint == as_stored(model).fingerprint
    assert "quantization_config" not in reopened.config
    assert hugging_face_size(plain, mixed(plain)) == weight_bytes(tmp_path / "out")


@pytest.mark.parametrize("kind", [*PACKED_INTEGERS, "int3-g32", "int6-channel-asym"])
def test_every_format_alone(kind: str, models_folder: Path, tmp_path: Path) -> None:
    plain = open_folder(tiny_model(models_folder, "qwen2"))
    model = linears_in(plain, kind)
    assert export_hugging_face(model, tmp_path / "out").difference < 1e-3
    assert open_folder(tmp_path / "out").fingerprint == as_stored(model).fingerprint
    assert hugging_face_size(model) == weight_bytes(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("tied", [True, False])
def test_rounded_embedding(dtype: str, tied: bool, models_folder: Path, tmp_path: Path) -> None:
    """Allowed where everything that is rounded shares one format."""
    plain = open_folder(tiny_model(models_folder, "llama", tie_word_embeddings=tied))
    model = rounded(plain, dict.fromkeys(plain.architecture.quantizable(), "int8-channel"))
    assert export_hugging_face(model, tmp_path / "out", dtype).difference < 1e-3  # type: ignore[arg-type]
    assert open_folder(tmp_path / "out").fingerprint == as_stored(model, dtype).fingerprint  # type: ignore[arg-type]
    assert hugging_face_size(model, dtype=dtype) == weight_bytes(tmp_path / "out")  # type: ignore[arg-type]


def test_stock_transformers_holds_our_values(models_folder: Path, tmp_path: Path) -> None:
    """Not only the logits: every expanded weight equals what the quantizer recorded, bit for bit."""
    plain = open_folder(tiny_model(models_folder, "llama"))
    for name, formats in (
        ("mixed", mixed(plain)),
        ("asym", dict.fromkeys(plain.architecture.linears(), "int4-g64-asym")),
    ):
        model = rounded(plain, formats)
        export_hugging_face(model, tmp_path / name)
        module = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / name))
        module(torch.tensor([[1]]))  # compressed-tensors expands at the first call
        loaded, stored = dict(module.named_parameters()), as_stored(model)
        for parameter in model.entries:
            assert torch.equal(loaded[parameter].float(), stored.tensor(parameter)), parameter


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_size_is_exact(data: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    model = open_folder(tiny)
    kinds = [kind for kind in PACKED_INTEGERS if not kind.endswith("-asym")]
    fits = {
        name: [kind for kind in kinds if get(kind).accepts(model.entries[name].shape)]
        for name in (*model.architecture.linears(), HEAD)
    }
    chosen = {name: data.draw(st.sampled_from(each)) for name, each in fits.items() if data.draw(st.booleans())}
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    write_hugging_face(rounded(model, chosen), folder)
    assert hugging_face_size(model, chosen) == weight_bytes(folder)


def test_size_of_several_files(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.core.shards.SHARD_BYTES", 60_000)
    model = linears_in(open_folder(tiny), "int4-g32")
    export_hugging_face(model, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert hugging_face_size(model) == weight_bytes(tmp_path / "out")
    assert open_folder(tmp_path / "out").fingerprint == as_stored(model).fingerprint


REFUSED = {
    "a GGUF block type": (
        {"model.layers.0.mlp.up_proj.weight": "Q4_0"}, "bfloat16", "quantize to one such as int4-g64",
    ),
    "asymmetric in a mix": (
        {"model.layers.0.mlp.up_proj.weight": "int4-g32-asym", "model.layers.1.mlp.up_proj.weight": "int8-g32"},
        "bfloat16", "asymmetric tensors in a model that mixes formats",
    ),
    "embedding in a mix": (
        {EMBEDDING: "int8-g32", "model.layers.1.mlp.up_proj.weight": "int4-g32"},
        "bfloat16", "a rounded embedding in a model that mixes formats",
    ),
    "a mix in float32": (
        {"model.layers.0.mlp.up_proj.weight": "int8-g32", "model.layers.1.mlp.up_proj.weight": "int4-g32"},
        "float32", "store it as bfloat16",
    ),
    "rows that do not fit": ({"model.layers.0.mlp.up_proj.weight": "int4-g128"}, "bfloat16", "multiple of 128"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_stock_transformers_cannot_load_is_refused(case: str, tiny: Path, tmp_path: Path) -> None:
    formats, dtype, reason = REFUSED[case]
    model = open_folder(tiny)
    with pytest.raises(FormatError, match=reason):
        hugging_face_size(model, formats, dtype)  # type: ignore[arg-type]
    if "rows" not in case:
        with pytest.raises(FormatError, match=reason):
            export_hugging_face(rounded(model, formats), tmp_path / "out", dtype)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_quantized_folder_is_a_model_like_any_other(tiny: Path, tmp_path: Path) -> None:
    """Opened, saved in our own form, opened again, exported again: always the same."""
    model = as_stored(linears_in(open_folder(tiny), "int4-g32"))
    export_hugging_face(model, tmp_path / "first")
    open_folder(tmp_path / "first").save(tmp_path / "ours")
    export_hugging_face(open_folder(tmp_path / "ours"), tmp_path / "second")
    assert open_folder(tmp_path / "second").fingerprint == model.fingerprint


def test_targets_by_class_and_pattern(tiny: Path, tmp_path: Path) -> None:
    """As llm-compressor writes them."""
    model = linears_in(open_folder(tiny), "int4-g32")
    export_hugging_face(model, tmp_path / "out")
    config = read_config(tmp_path / "out")
    for targets in (["Linear"], [r"re:model\.layers\..*proj"]):
        config["quantization_config"]["config_groups"]["group_0"]["targets"] = targets
        write_json(tmp_path / "out" / "config.json", config)
        assert open_folder(tmp_path / "out").fingerprint == as_stored(model).fingerprint


def test_other_ways_to_quantize_are_named(tiny: Path, tmp_path: Path) -> None:
    open_folder(tiny).save(tmp_path / "model")
    write_json(tmp_path / "model" / "config.json", {"quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(CheckpointError, match="is quantized as 'bitsandbytes', which is not supported"):
        open_folder(tmp_path / "model")


def test_packed_weights_that_no_group_targets(tiny: Path, tmp_path: Path) -> None:
    export_hugging_face(linears_in(open_folder(tiny), "int4-g32"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["lm_head"]
    write_json(tmp_path / "out" / "config.json", config)
    with pytest.raises(CheckpointError, match="no group of its quantization config targets it"):
        open_folder(tmp_path / "out")
