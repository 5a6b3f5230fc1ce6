"""Bad input: one sentence with the input, the reason and the mend; exit status 2; nothing written."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from featherweight.core.source import open_folder
from featherweight.testing.tiny import write_json

Refused = Callable[..., str]


@pytest.fixture
def refused(
    command: Callable[..., Any], unchanged: Callable[[Path], AbstractContextManager[None]], tmp_path: Path
) -> Refused:
    """Runs a command that must be refused, and returns the one sentence that it said."""

    def run(*arguments: object) -> str:
        with unchanged(tmp_path):
            ended = command(*arguments)
        assert ended.status == 2, ended
        assert ended.out == ""
        [line] = ended.err.splitlines()
        assert re.fullmatch(r"featherweight: .+: .+; .+\.", line), line
        return line

    return run


@pytest.fixture
def fit(refused: Refused, tmp_path: Path) -> Refused:
    """A fit that must be refused, into a folder that must not appear."""

    def run(model: object, *options: object) -> str:
        budget = () if "--memory" in options else ("--memory", "60%")
        said = refused("fit", model, *budget, "--out", tmp_path / "runs" / "out", "--quiet", *options)
        assert not (tmp_path / "runs").exists()
        return said

    return run


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


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


class TestBudget:
    @pytest.mark.parametrize(
        ("option", "value", "reason"),
        [
            ("--memory", "92", "'92': has no unit; use one of B, kB"),
            ("--memory", "92XB", "'92XB': 'XB' is no unit of memory; use one of B, kB"),
            ("--memory", "lots", "'lots': is not a number with a unit; write for example 92MB"),
            ("--memory", "-5MB", "-5MB: must be above zero; give a positive amount"),
            ("--memory", "0MB", "0MB: must be above zero; give a positive amount"),
            ("--memory", "0.1B", "0.1B: must be above zero; give a positive amount"),
            ("--memory", "1e999MB", "'1e999MB': is too large; write for example 92MB"),
            ("--memory", "120%", "120%: is above 100 % of the parent; write for example 45%"),
            ("--memory", "900MB", "900.00 MB: is above the parent itself, which takes"),
            (
                "--resident",
                "50%",
                "'50%': '%' is no unit of memory; use one of B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB.",
            ),
            ("--latency", "30", "'30': has no unit; use one of us"),
            ("--latency", "30MB", "'30MB': 'MB' is no unit of time; use one of us"),
            ("--latency", "-30ms", "-30ms: must be above zero"),
            ("--quality", "850%", "850%: is above 100 % of the parent; write for example 85%"),
            ("--quality", "0%", "0%: must be above zero"),
        ],
    )
    def test_limit(self, refused: Refused, option: str, value: str, reason: str, tiny: Path, tmp_path: Path) -> None:
        said = refused("fit", tiny, option, value, "--out", tmp_path / "out", "--quiet")
        assert f"{option} {reason}" in said

    def test_no_limit(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        said = refused("fit", tiny, "--out", tmp_path / "out")
        assert "budget: sets no limit; give at least one of memory, resident, latency, quality" in said

    def test_number_out_of_range(self, fit: Refused, tiny: Path) -> None:
        assert "budget field 'threads'" in fit(tiny, "--threads", "0")
        assert "budget field 'context'" in fit(tiny, "--context", "1")


class TestText:
    @pytest.mark.parametrize("text", ["", "  \n\n"])
    def test_empty(self, fit: Refused, tiny: Path, tmp_path: Path, text: str) -> None:
        path = tmp_path / "text.txt"
        path.write_text(text)
        assert f"{path}: is empty; give a file with text" in fit(tiny, "--text", path)

    def test_too_short(self, fit: Refused, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "text.txt"
        path.write_text("A few words.\n" * 5)
        said = fit(tiny, "--text", path)
        assert "the calibration text: is too short: 0 tokens do not make 2 rows of 256" in said
        assert "give at least 3072 tokens in all" in said

    def test_missing(self, fit: Refused, tiny: Path) -> None:
        assert "text 'nowhere.txt': does not exist; give a .txt or .jsonl file" in fit(tiny, "--text", "nowhere.txt")

    def test_line_without_text(self, fit: Refused, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "text.jsonl"
        path.write_text('{"text": "fine"}\n{"txet": "not"}\n')
        said = fit(tiny, "--text", path)
        assert f"{path} line 2: has neither 'text' nor 'messages'; write one JSON object a line" in said


class TestRecipe:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("steps: [gtpq]", "technique 'gtpq': is unknown; did you mean 'gptq'"),
            ("steps:\n- gptq: {dampign: 0.1}", "field 'dampign' of gptq: is unknown; did you mean 'damping'"),
            ("steps:\n- depth: {drop: -1}", "depth.drop = -1: "),
            ("steps: [depth", "is not valid YAML"),
            ("step: [rtn]", "has no list called 'steps'; write `steps:`"),
        ],
    )
    def test_wrong(self, refused: Refused, text: str, says: str, tiny: Path, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        assert says in refused("apply", path, tiny, "--out", tmp_path / "out", "--quiet")

    def test_missing(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        said = refused("apply", "nowhere.yaml", tiny, "--out", tmp_path / "out")
        assert "nowhere.yaml: does not exist; give the path of a recipe in YAML" in said


class TestRun:
    def test_output_exists(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine").write_text("keep this")
        for path in (out, out / "mine"):
            said = refused("fit", tiny, "--memory", "60%", "--out", path)
            assert f"{path}: exists already; choose another folder, or add --resume" in said

    def test_nothing_to_resume(self, fit: Refused, tiny: Path, tmp_path: Path) -> None:
        said = fit(tiny, "--resume")
        assert f"{tmp_path / 'runs' / 'out'}: holds no run to resume; leave --resume out to start one" in said

    def test_nothing_to_reuse(self, fit: Refused, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        expected = f"--reuse {tmp_path}: holds no measurements of an earlier run; give the folder that fit wrote"
        assert expected in fit(tiny, "--reuse", tmp_path)
        assert expected in refused("plan", tiny, "--memory", "60%", "--reuse", tmp_path)

    def test_unknown_format(self, fit: Refused, tiny: Path) -> None:
        assert "--format 'ggfu': is no export format; did you mean 'gguf'?" in fit(tiny, "--format", "ggfu")

    def test_device_that_is_not_here(self, fit: Refused, tiny: Path) -> None:
        assert "--device 'tpu': is no device of this machine; use cpu" in fit(tiny, "--device", "tpu")

    def test_no_finished_run(self, refused: Refused, tmp_path: Path) -> None:
        assert f"{tmp_path}: holds no finished run; give the folder" in refused("report", tmp_path)
        assert f"{tmp_path}: has no ledger; give the folder" in refused("verify", "--ledger", tmp_path)

    def test_half_a_comparison(self, refused: Refused, tiny: Path) -> None:
        assert "verify: needs a parent and a child; or give a run with --ledger" in refused("verify", tiny)

    def test_from_a_shell(self, tmp_path: Path) -> None:
        """The same through the installed entry point: a sentence and no traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "featherweight", "fit", "nowhere", "--memory", "60%", "--out", "out"],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("featherweight: nowhere: does not exist")
        assert "Traceback" not in done.stderr
        assert list(tmp_path.iterdir()) == []
