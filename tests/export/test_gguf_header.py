"""llama.cpp computes the same function: in float files the predictions agree far below what 8-bit activations cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featherweight.core.architecture import block_index, block_part
from featherweight.core.errors import FormatError
from featherweight.core.gguf_metadata import read_gguf
from featherweight.core.model import Model
from featherweight.core.source import open_folder, open_model
from featherweight.export.checked import export_gguf
from featherweight.export.gguf import as_stored
from featherweight.testing.tiny import tiny_model

SLIDING, FULL = "sliding_attention", "full_attention"
EXACT = 3e-4  # mistakes in rotary factors or windows of these models were measured at 0.005 and more


def rope(kind: str, **facts: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, "rope_type": kind, **facts}}


def factors(first: float, count: int = 16) -> list[float]:
    return [first + 0.37 * (index * index % 7) for index in range(count)]


SCALINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("qwen3", rope("linear", factor=4.0)),
    "llama3": ("llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=8192)),
    "yarn": ("llama", rope("yarn", factor=8.0, original_max_position_embeddings=64)),
    "yarn with a factor of its own": ("qwen2", rope("yarn", factor=8.0, original_max_position_embeddings=64,
                                                    attention_factor=1.5)),
    "longrope": ("phi3", {**rope("longrope", long_factor=factors(2.0), short_factor=factors(1.0),
                                 partial_rotary_factor=1.0),
                          "original_max_position_embeddings": 512, "max_position_embeddings": 2048}),
    "partial": ("phi3", rope("default", partial_rotary_factor=0.5)),
    "another base": ("mistral", {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "heads of their own size": ("qwen3", {"head_dim": 16}),
}  # fmt: skip


@pytest.mark.parametrize("case", SCALINGS)
def test_same_function(case: str, models_folder: Path, tmp_path: Path) -> None:
    model_type, changes = SCALINGS[case]
    model = open_folder(tiny_model(models_folder, model_type, **changes))
    assert export_gguf(model, tmp_path / "model.gguf").difference < EXACT
    assert open_model(tmp_path / "model.gguf", tmp_path / "cache").config == model.config


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamic": ("qwen3", rope("dynamic", factor=4.0), "rotary scaling 'dynamic'"),
    "llama3 in Qwen": ("qwen2", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=64), "rotary scaling 'llama3'"),
    "betas of YaRN": ("llama", rope("yarn", factor=8.0, original_max_position_embeddings=64, beta_slow=4.0), "YaRN"),
    "activation": ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
    "attention scale": ("gemma3_text", {"query_pre_attn_scalar": 64}, r"1/sqrt\(64\)"),
    "biases": ("qwen3", {"attention_bias": True}, "attention biases"),
    "narrow queries": ("qwen2", {"num_attention_heads": 2}, "as many query rows as hidden channels"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_another_function_is_refused(case: str, models_folder: Path, tmp_path: Path) -> None:
    model_type, changes, reason = REFUSED[case]
    model = open_folder(tiny_model(models_folder, model_type, **changes))
    with pytest.raises(FormatError, match=reason):
        export_gguf(model, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def keep_blocks(model: Model, kept: list[int]) -> Model:
    """What depth pruning makes: some blocks dropped, the others moved up."""
    tensors = {
        f"model.layers.{new}.{block_part(name)}": entry
        for new, old in enumerate(kept)
        for name, entry in model.entries.items()
        if block_index(name) == old
    }
    kinds = [model.settings["layer_types"][index] for index in kept]
    dropped = [name for name in model.entries if block_index(name) is not None]
    return model.with_changes(tensors, dropped, {"num_hidden_layers": len(kept), "layer_types": kinds})


@pytest.mark.parametrize(
    ("kept", "pattern"),
    [
        ([0, 1, 2, 3, 4, 5, 6], 6),
        ([0, 1, 2, 3, 4], 6),
        ([3, 4, 5, 9, 10, 11], 3),
        ([0, 5, 6, 7, 11], [True, False, True, True, False]),
        ([5, 6, 7], [False, True, True]),
    ],
    ids=str,
)
def test_gemma_keeps_its_windows(kept: list[int], pattern: Any, models_folder: Path, tmp_path: Path) -> None:
    """The prompts of the check are longer than the window, so that a block that slides wrongly shows."""
    deep = tiny_model(models_folder, "gemma3_text", num_hidden_layers=12, sliding_window=16)
    model = keep_blocks(open_folder(deep), kept)
    assert export_gguf(model, tmp_path / "model.gguf").difference < 2e-5
    file = read_gguf(tmp_path / "model.gguf")
    assert file.get("gemma3.attention.sliding_window_pattern") == pattern
    assert open_model(tmp_path / "model.gguf", tmp_path / "cache").fingerprint == as_stored(model).fingerprint


def test_gemma_with_scaled_global_blocks(models_folder: Path, tmp_path: Path) -> None:
    parameters = {
        FULL: {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        SLIDING: {"rope_theta": 1e4, "rope_type": "default"},
    }
    model = open_folder(tiny_model(models_folder, "gemma3_text", num_hidden_layers=7, rope_parameters=parameters))
    assert export_gguf(model, tmp_path / "model.gguf").difference < 2e-5


def test_gemma_without_windows(models_folder: Path, tmp_path: Path) -> None:
    model = open_folder(tiny_model(models_folder, "gemma3_text", layer_types=[FULL, FULL]))
    assert export_gguf(model, tmp_path / "model.gguf").difference < 2e-5


@pytest.mark.parametrize("model_type", ["mistral", "phi3"])
def test_context_ends_where_a_window_would_matter(model_type: str, models_folder: Path, tmp_path: Path) -> None:
    """llama.cpp has no windows for these; up to the window's length that is the same function."""
    model = open_folder(tiny_model(models_folder, model_type, sliding_window=256))
    export_gguf(model, tmp_path / "model.gguf")
    file = read_gguf(tmp_path / "model.gguf")
    assert file.get(f"{file.get('general.architecture')}.context_length") == 256


def test_check_fits_into_a_short_context(models_folder: Path, tmp_path: Path) -> None:
    model = open_folder(tiny_model(models_folder, "mistral", sliding_window=64))
    assert export_gguf(model, tmp_path / "model.gguf").predictions == 6
