"""llama.cpp in this process: token ids, log-probabilities, timing, errors with their reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from featherweight.core.errors import CheckpointError
from featherweight.core.source import open_folder
from featherweight.export.gguf import as_stored
from featherweight.measure.llama_runtime import LlamaRuntime, load_error, serve


@pytest.fixture(scope="module")
def runtime(tiny_gguf: Path) -> Iterator[LlamaRuntime]:
    with serve(tiny_gguf, context=256, threads=1) as runtime:
        yield runtime


def test_token_ids(runtime: LlamaRuntime, tiny: Path) -> None:
    text = "Some text\nwith 123 <|start|> and ünïcode."
    assert runtime.tokenize(text) == open_folder(tiny).tokenizer(text)["input_ids"]


def test_log_probabilities_of_every_token(runtime: LlamaRuntime, tiny: Path) -> None:
    model = as_stored(open_folder(tiny))
    ids = runtime.tokenize("The quick brown fox jumps over the lazy dog.")
    expected = model.module()(torch.tensor([ids])).logits[0, -1].log_softmax(0)
    found = runtime.log_probabilities(ids, 512)
    assert found.shape == (512,)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float((expected.exp() * (expected - found)).sum()) < 1e-3


def test_the_likeliest_tokens_come_first(runtime: LlamaRuntime) -> None:
    tokens, values = runtime.likeliest([5, 6, 7], 10)
    whole = runtime.log_probabilities([5, 6, 7], 512)
    assert tokens.tolist() == whole.topk(10).indices.tolist()
    assert values.tolist() == sorted(values.tolist(), reverse=True)


def test_decoding_is_timed(runtime: LlamaRuntime) -> None:
    timing = runtime.decode(list(range(20)), 9)
    assert (timing.prompt_tokens, timing.tokens) == (20, 8)
    assert timing.seconds > 0
    assert timing.prompt_seconds > 0


def test_generation_is_greedy_and_repeatable(runtime: LlamaRuntime) -> None:
    ids = runtime.tokenize("Once upon a time")
    assert runtime.generate(ids, 12) == runtime.generate(ids, 12)


def test_a_prompt_that_does_not_fit(runtime: LlamaRuntime) -> None:
    with pytest.raises(CheckpointError, match="exceeds the available context size"):
        runtime.decode([1] * 600, 4)


def test_the_server_answers_only_us(runtime: LlamaRuntime, tiny_gguf: Path) -> None:
    stranger = LlamaRuntime(f"http://{runtime._host}", "wrong", tiny_gguf)
    with pytest.raises(CheckpointError, match="API Key"):
        stranger.decode([1, 2], 4)


def test_a_file_that_does_not_load_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    with (
        pytest.raises(CheckpointError, match=r"text.gguf: cannot be loaded by llama.cpp \(.+\)"),
        serve(tmp_path / "text.gguf"),
    ):
        pass


def test_loading_is_silent(tiny_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serve(tiny_gguf, context=64, threads=1):
        pass
    assert capfd.readouterr() == ("", "")


def test_the_reason_in_a_log() -> None:
    log = "0.01 I srv: loading\n0.02 E llama_model_load: error loading model: no such thing\n0.03 E srv: exiting\n"
    assert load_error(log) == "no such thing"
    assert load_error("nothing of note") == ""
