"""What is no readable model: named with the reason and the mend; no pickle is run; nothing is written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.core.source import open_folder
from featherweight.testing.tiny import write_json

Refused = Callable[..., str]


class TestModel:
    def test_missing_folder(self, fit: Refused, tmp_path: Path) -> None:
        assert f"{tmp_path / 'nowhere'}: does not exist; give a model folder" in fit(tmp_path / "nowhere")

    def test_name_that_is_neither_here_nor_on_the_hub(self, fit: Refused) -> None:
        said = fit("nobody/nothing")
        assert "nobody/nothing: is no local folder and cannot be had from the hub" in said
        assert "check the name and the network" in said

    def test_no_model(self, fit: Refused, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        said = fit(tmp_path / "photos")
        assert f"{tmp_path / 'photos'}: is not a model: it has no config.json; give a Hugging Face model" in said
        (tmp_path / "notes.txt").write_text("hello")
        assert f"{tmp_path / 'notes.txt'}: is not a model; give a model folder" in fit(tmp_path / "notes.txt")

    def test_file_that_is_no_gguf(self, fit: Refused, tmp_path: Path) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUX" + bytes(100))
        assert f"{path}: is not a whole GGUF file" in fit(path)

    def test_config_that_is_no_json(self, fit: Refused, copy: Path) -> None:
        (copy / "config.json").write_text("{'model_type': 'llama'}")
        assert f"{copy / 'config.json'}: is not valid JSON" in fit(copy)

    def test_no_weights(self, fit: Refused, copy: Path) -> None:
        (copy / "model.safetensors").unlink()
        assert f"{copy}: is not a model: it has no safetensors file; give a model folder" in fit(copy)

    @pytest.mark.parametrize("keep", [0, 7, 500])
    def test_truncated_header(self, fit: Refused, copy: Path, keep: int) -> None:
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        assert f"{path}: is not a safetensors file, or its header is cut off; download it again" in fit(copy)

    def test_truncated_weights(self, fit: Refused, copy: Path) -> None:
        path = copy / "model.safetensors"
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1])
        assert f"{path}: is truncated: {size - 1} bytes of {size}; download the file again" in fit(copy)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers(self, fit: Refused, copy: Path, value: float) -> None:
        tensors = load_file(copy / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        said = fit(copy)
        assert f"{copy}, model.layers.1.mlp.up_proj.weight: holds NaN or infinite values" in said
        assert "repair or download the model again" in said

    def test_unsupported_architecture(self, fit: Refused, copy: Path) -> None:
        write_json(copy / "config.json", {"model_type": "mamba"})
        said = fit(copy)
        assert f"{copy}: the architecture 'mamba' is not supported; use one of gemma3_text, llama, mistral" in said

    @pytest.mark.parametrize("verb", ["plan", "verify", "apply"])
    def test_other_verbs_refuse_the_same(self, refused: Refused, verb: str, tiny: Path, tmp_path: Path) -> None:
        nowhere, recipe = tmp_path / "nowhere", tmp_path / "recipe.yaml"
        recipe.write_text("steps: [rtn]\n")
        arguments = {
            "plan": [nowhere, "--memory", "60%"],
            "verify": [tiny, nowhere],
            "apply": [recipe, nowhere, "--out", tmp_path / "out"],
        }
        assert f"{nowhere}: does not exist; give a model folder" in refused(verb, *arguments[verb], "--quiet")


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


class TestPickle:
    @pytest.fixture
    def trapped(self, copy: Path, tmp_path: Path) -> Path:
        (copy / "model.safetensors").unlink()
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung"), protocol=2))
        return copy

    def test_refused_without_trust(self, fit: Refused, trapped: Path, tmp_path: Path) -> None:
        said = fit(trapped)
        assert f"{trapped}: holds its weights only as a pickle (pytorch_model.bin), which can run code" in said
        assert "convert it to safetensors, or pass --trust-remote-code" in said
        assert not (tmp_path / "sprung").exists()

    def test_even_with_trust_only_tensors_are_read(self, fit: Refused, trapped: Path, tmp_path: Path) -> None:
        said = fit(trapped, "--trust-remote-code")
        assert f"{trapped / 'pytorch_model.bin'}: cannot be read as tensors alone" in said
        assert "convert it to safetensors" in said
        assert not (tmp_path / "sprung").exists()

    def test_tensors_are_read_with_trust(self, copy: Path) -> None:
        before = open_folder(copy).fingerprint
        torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
        assert open_folder(copy, trust=True).fingerprint == before
