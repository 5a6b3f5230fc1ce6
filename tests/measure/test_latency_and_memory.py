"""Latency and memory are measured in the right runtime; figures are checked for sense, never for size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from featherweight.core.errors import CheckpointError, FormatError
from featherweight.core.source import open_folder
from featherweight.export.checked import export_gguf, export_hugging_face
from featherweight.measure.latency import decode_latency, runtime_of
from featherweight.measure.memory import resident_memory
from featherweight.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    export_gguf(open_folder(tiny), folder / "model.gguf")
    export_hugging_face(open_folder(tiny), folder / "model")
    return {"llama.cpp": folder / "model.gguf", "transformers": folder / "model"}


@pytest.mark.parametrize("runtime", ["llama.cpp", "transformers"])
def test_latency(runtime: str, exported: dict[str, Path]) -> None:
    found = decode_latency(exported[runtime], threads=1, tokens=6, prompt=16, repeats=3)
    assert (found.runtime, found.threads, found.tokens, found.repeats) == (runtime, 1, 6, 3)
    assert 0 < found.token_seconds <= found.median <= found.slowest
    assert found.prompt_rate > 0


def test_latency_of_a_model_in_memory(tiny: Path) -> None:
    before = torch.get_num_threads()
    assert decode_latency(open_folder(tiny), threads=1, tokens=4, prompt=8, repeats=1).runtime == "transformers"
    assert torch.get_num_threads() == before


def test_the_wrong_runtime_is_refused(exported: dict[str, Path]) -> None:
    assert runtime_of(exported["llama.cpp"]) == "llama.cpp"
    with pytest.raises(FormatError, match="is not for transformers"):
        decode_latency(exported["llama.cpp"], "transformers")


@pytest.mark.parametrize("runtime", ["llama.cpp", "transformers"])
def test_memory(runtime: str, exported: dict[str, Path]) -> None:
    found = resident_memory(exported[runtime], context=64, threads=1)
    assert (found.runtime, found.context) == (runtime, 64)
    assert found.peak > found.baseline > 5_000_000
    assert found.peak < 2_000_000_000


def test_memory_grows_by_the_weights(models_folder: Path, tmp_path: Path) -> None:
    """Two files that differ by 24 MB of embedding: all of it is read when the head computes logits."""
    peaks, sizes = [], []
    for size in (512, 24_512):
        path = tmp_path / f"{size}.gguf"
        export_gguf(open_folder(tiny_model(models_folder, vocab_size=size, hidden_size=256)), path)
        sizes.append(path.stat().st_size)
        peaks.append(resident_memory(path, context=64, threads=1).peak)
    head = (sizes[1] - sizes[0]) // 2  # of the embedding, only the rows of the prompt are read
    assert peaks[1] - peaks[0] > 0.8 * head


def test_the_probe_does_not_import_torch_for_llama_cpp(exported: dict[str, Path]) -> None:
    """Its baseline would otherwise count what llama.cpp does not need."""
    code = "from featherweight.measure import memory_probe as probe; import pathlib, sys; "
    code += "probe.main(pathlib.Path(sys.argv[1]), 64, 1); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(exported["llama.cpp"])]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert set(json.loads(lines[0])) == {"baseline", "peak"}
    assert lines[1] == "False"


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"could not be served in a fresh process .*cannot be loaded by llama.cpp"
    ):
        resident_memory(tmp_path / "none.gguf")
