"""Merges that must be refused: one sentence, status 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.testing.tiny import tiny_model
from fine_tunes import fine_tunes
from lora_folders import lora_folder

Refused = Callable[..., str]


@pytest.fixture
def tuned(tiny: Path, tmp_path: Path) -> list[Path]:
    return fine_tunes(tiny, tmp_path / "tuned", count=2)


@pytest.fixture
def merge(refused: Refused, tiny: Path, tmp_path: Path) -> Refused:
    """A merge onto the tiny model that must be refused."""
    return lambda *arguments: refused("merge", tiny, *arguments, "--quiet", "--out", tmp_path / "out")


class TestModels:
    def test_none(self, merge: Refused, refused: Refused, tmp_path: Path) -> None:
        assert "a merge of no model: has nothing to merge; name at least one fine-tune" in merge()
        assert "a merge of no model" in refused("merge", "--quiet", "--out", tmp_path / "out")

    def test_missing(self, merge: Refused, tmp_path: Path) -> None:
        assert "does not exist" in merge(tmp_path / "none")

    def test_another_shape(self, merge: Refused, models_folder: Path) -> None:
        other = tiny_model(models_folder, intermediate_size=128)
        assert "has intermediate_size = 128, and the base 256; give a fine-tune of this base" in merge(other)

    def test_another_architecture(self, merge: Refused, models_folder: Path) -> None:
        assert "and the base" in merge(tiny_model(models_folder, "qwen3"))

    def test_nan(self, merge: Refused, tuned: list[Path]) -> None:
        weights = load_file(tuned[1] / "model.safetensors")
        weights["model.norm.weight"][3] = torch.nan
        save_file(weights, tuned[1] / "model.safetensors")
        said = merge(*tuned)
        assert f"{tuned[1]}, model.norm.weight: holds NaN or infinite values" in said

    def test_adapter_of_another_base(self, merge: Refused, models_folder: Path, tmp_path: Path) -> None:
        other = tiny_model(models_folder, seed=7)
        assert "belongs to another base" in merge(lora_folder(tmp_path / "lora", other))

    def test_truncated(self, merge: Refused, tuned: list[Path]) -> None:
        path = tuned[0] / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        assert "is truncated" in merge(tuned[0])

    def test_pickle(self, merge: Refused, tuned: list[Path]) -> None:
        (tuned[0] / "model.safetensors").rename(tuned[0] / "pytorch_model.bin")
        assert "holds its weights only as a pickle" in merge(tuned[0])


class TestOptions:
    def test_no_output(self, refused: Refused, tiny: Path, tuned: list[Path]) -> None:
        assert "--out: is missing; name the folder" in refused("merge", tiny, *tuned)

    def test_output_exists(self, refused: Refused, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        assert "exists already" in refused("merge", tiny, *tuned, "--out", tuned[0])

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--method", "tie"], "technique 'tie': is unknown; did you mean 'ties'"),
            (
                ["--method", "gptq"],
                "is no technique that merges, but one of the kind quantize; use one of dare, linear",
            ),
            (["--weight", "1,2,3"], "are 3 values for 2 models"),
            (["--weight", "much"], "--weight 'much': is no list of numbers"),
            (["--method", "ties", "--density", "1.5"], "ties.density"),
            (["--density", "0.5"], "field 'density' of orthogonal-deltas: is unknown"),
            (["--fit", "gradient"], "has no text to fit on; give validation"),
            (["--fit", "luck"], "orthogonal-deltas.fit = 'luck'"),
            (["--dtype", "int8"], "orthogonal-deltas.dtype = 'int8'"),
            (["--set", "granularity"], "is no FIELD=VALUE"),
            (["--source", "ft-a"], "--source 'ft-a': names no fine-tune and its place; write NAME=PATH"),
        ],
    )
    def test_value(self, merge: Refused, tuned: list[Path], options: list[str], said: str) -> None:
        if options[0] == "--source":
            options = ["--onto", str(tuned[0]), *options]
        assert said in merge(*tuned, *options)

    def test_recipe_with_models(self, merge: Refused, tuned: list[Path], tmp_path: Path) -> None:
        assert "--recipe with MODELS: say two things at once" in merge(*tuned, "--recipe", tmp_path / "x.yaml")


class TestFolder:
    def test_not_merged_here(self, refused: Refused, tiny: Path, tuned: list[Path], tmp_path: Path) -> None:
        for arguments in (("merge", "--onto", tuned[0], tuned[1]), ("unmerge", tuned[0], "ft-b")):
            said = refused(*arguments, "--quiet", "--out", tmp_path / "out")
            assert f"{tuned[0]}: was not merged here: it has no ledger.jsonl; give a folder that merge wrote" in said

    def test_unmerge(
        self, refused: Refused, command: Callable[..., object], tiny: Path, tuned: list[Path], tmp_path: Path
    ) -> None:
        command("merge", tiny, *tuned, "--quiet", "--out", tmp_path / "ab")
        out = ("--quiet", "--out", tmp_path / "out")
        said = refused("unmerge", tmp_path / "ab", "ft-c", *out)
        assert "ft-c: is no model that was merged into it; it holds ft-a, ft-b" in said
        assert "--mode 'undo': is no way to unmerge" in refused(
            "unmerge", tmp_path / "ab", "ft-a", "--mode", "undo", *out
        )
        assert "--source ft-x: is no model of" in refused(
            "unmerge", tmp_path / "ab", "ft-a", "--source", "ft-x=y", *out
        )
        assert "has nothing to add" in refused("merge", "--onto", tmp_path / "ab", *out)
        assert "exists already" in refused("unmerge", tmp_path / "ab", "ft-a", "--out", tmp_path / "ab")
        path = tmp_path / "ab" / "ledger.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:2] + lines[3:]))
        assert f"{path} line 3: does not follow the line before it" in refused("unmerge", tmp_path / "ab", "ft-a", *out)
