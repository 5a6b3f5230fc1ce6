"""Adapters and options that must be refused: one sentence, status 2, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from featherweight.testing.tiny import tiny_model, write_json
from lora_folders import lora_folder

Refused = Callable[..., str]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return lora_folder(tmp_path / "support", tiny)


class TestFolder:
    def test_none(self, refused: Refused, tmp_path: Path) -> None:
        assert "is no folder; give the folder" in refused("adapter", "inspect", tmp_path / "none")

    def test_empty(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        said = refused("adapter", "shrink", tmp_path / "empty", "--energy", "0.9")
        assert "is no adapter: it has no adapter_config.json; give the folder" in said

    def test_pickled(self, refused: Refused, folder: Path) -> None:
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        said = refused("adapter", "shrink", folder, "--energy", "0.9")
        assert "is a pickle, which can run code when it is loaded; load it with PEFT where you trust" in said

    def test_truncated(self, refused: Refused, folder: Path) -> None:
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
        assert "is truncated" in refused("adapter", "inspect", folder)

    def test_dora(self, refused: Refused, folder: Path) -> None:
        write_json(folder / "adapter_config.json", {"use_dora": True})
        said = refused("adapter", "shrink", folder, "--energy", "0.9")
        assert "is DoRA, whose magnitudes belong to the exact directions: not scale * B A alone" in said

    def test_adapter_that_changes_nothing(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        folder = lora_folder(tmp_path / "silent", tiny, size=0.0)
        said = refused("adapter", "shrink", folder, "--energy", "0.9")
        assert "changes nothing: its factors multiply to zero" in said


class TestOptions:
    @pytest.mark.parametrize("energy", ["0", "-0.5", "1.5", "95", "nan"])
    def test_energy(self, refused: Refused, folder: Path, energy: str) -> None:
        said = refused("adapter", "shrink", folder, "--energy", energy)
        assert "is no share of the energy; give more than 0 and at most 1" in said

    def test_no_rule(self, refused: Refused, folder: Path) -> None:
        assert "needs one of energy, parameters and size" in refused("adapter", "shrink", folder)

    @pytest.mark.parametrize(("option", "value"), [("--parameters", "10"), ("--parameters", "0"), ("--size", "50B")])
    def test_budget_below_one_term(self, refused: Refused, folder: Path, option: str, value: str) -> None:
        said = refused("adapter", "shrink", folder, option, value)
        assert "leaves nothing of the adapter; allow at least " in said

    def test_size_without_a_unit(self, refused: Refused, folder: Path) -> None:
        assert "--size '5': has no unit" in refused("adapter", "shrink", folder, "--size", "5")

    @pytest.mark.parametrize("rank", ["0", "5", "-1"])
    def test_rank(self, refused: Refused, folder: Path, rank: str) -> None:
        said = refused("adapter", "export", folder, "--rank", rank)
        assert f"rank {rank}: is none that {folder} has; give a rank from 1 to 4" in said

    def test_format(self, refused: Refused, folder: Path) -> None:
        said = refused("adapter", "export", folder, "--format", "ggml")
        assert "--format 'ggml': is none that an adapter is exported in; did you mean 'gguf'?" in said
        assert "--type 'Q4'" in refused("adapter", "export", folder, "--format", "gguf", "--type", "Q4")


class TestBase:
    def test_another(self, refused: Refused, folder: Path, models_folder: Path) -> None:
        other = tiny_model(models_folder, seed=7)
        said = refused("adapter", "export", folder, "--format", "gguf", "--model", other)
        assert "belongs to another base: " in said
        held_out = folder.with_name("held-out.txt")
        held_out.write_text("A text to measure on. " * 9)
        said = refused("adapter", "inspect", folder, "--data", held_out, "--model", other)
        assert "belongs to another base: " in said

    def test_unknown(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        folder = lora_folder(tmp_path / "theirs", tiny, ours=False)
        write_json(folder / "adapter_config.json", {"base_model_name_or_path": None})
        said = refused("adapter", "export", folder, "--format", "gguf")
        assert "does not say which model it belongs to; give it with --model" in said

    def test_module_that_gguf_has_no_place_for(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        folder = lora_folder(tmp_path / "whole", tiny, target_modules=["q_proj"], modules_to_save=["lm_head"])
        said = refused("adapter", "export", folder, "--format", "gguf")
        assert "is of a module that was trained whole" in said

    def test_existing_output(self, refused: Refused, folder: Path) -> None:
        shutil.copytree(folder, folder.with_name("support-shrunk"))
        assert "exists already" in refused("adapter", "shrink", folder, "--energy", "0.9")
