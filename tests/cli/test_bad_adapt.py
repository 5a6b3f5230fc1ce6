"""adapt refuses with one sentence and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.fixture
def adapt(refused: Refused, tiny: Path, tmp_path: Path) -> Refused:
    """An adapt that must be refused, of some lines, into a folder that must not appear."""
    (tmp_path / "data.jsonl").write_text("")

    def run(*options: object, lines: tuple[object, ...] = (CHAT, {"text": "A text."}), model: object = tiny) -> str:
        data = tmp_path / "data.jsonl"
        data.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines))
        chosen = () if "--data" in options else ("--data", data)
        said = refused("adapt", model, *chosen, "--out", tmp_path / "runs" / "out", "--quiet", *options)
        assert not (tmp_path / "runs").exists()
        return said

    return run


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank", "65"), "rank 65: is above the size of model.layers.0.self_attn"),
        (("--rank", "0"), "lora.rank = 0"),
        (
            ("--set", "targets=[qproj]"),
            "target module 'qproj': matches no linear of the model's blocks; did you mean 'q",
        ),
        (("--method", "lore"), "'lora'"),
        (("--method", "rtn"), "trains no adapter"),
        (("--set", "ranks=4"), "field 'ranks' of lora: is unknown; did you mean 'rank'"),
        (("--set", "batch"), "is no FIELD=VALUE"),
        (("--held-out", "1.5"), "is no share"),
        (("--device", "tpu"), "is no device of this machine"),
        (("--resume",), "holds no run to resume"),
        (("--data", "/nowhere.jsonl"), "does not exist"),
        (("--memory", "1MB"), "--memory 1.00 MB: "),
        (("--memory", "3"), "has no unit; use one of B, kB, KB, MB, GB, TB, KiB, MiB, GiB, TiB."),
        (("--method", "gpart", "--set", "dimension=999999"), "dimension 999999: is not from 1 to"),
        (("--method", "matryoshka-lora", "--rank", "65"), "rank 65: is above the size of model.layers.0.self_attn"),
    ],
)
def test_options(adapt: Refused, options: tuple[object, ...], said: str) -> None:
    assert said in adapt(*options)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((CHAT, "{"), "line 2: is no JSON"),
        ((CHAT, {"messages": CHAT["messages"][:1]}), "line 2: has no assistant turn"),
        ((CHAT, CHAT), "is the only sample"),
        ((CHAT, {"text": ""}), "all labels are masked"),
        ((CHAT, {"answer": "?"}), "line 2: holds 'answer'"),
        ((), "is empty"),
    ],
)
def test_data(adapt: Refused, lines: tuple[object, ...], said: str) -> None:
    assert said in adapt(lines=lines)


def test_no_utf_8(adapt: Refused, tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe4"}')
    assert "is not UTF-8" in adapt("--data", tmp_path / "latin.jsonl")


def test_resuming_needs_the_folder(refused: Refused, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(CHAT))
    said = refused("adapt", tiny, "--data", tmp_path / "data.jsonl", "--resume")
    assert "--out: is missing; name the folder: that of the run to resume" in said


def test_an_output_that_exists(refused: Refused, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    (tmp_path / "data.jsonl").write_text(json.dumps(CHAT))
    assert "exists already" in refused("adapt", tiny, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "out")


def test_a_loss_that_is_not_a_number(command: Callable[..., object], tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Line {n}."}) + "\n" for n in range(8)))
    out = tmp_path / "out"
    options = ("--rank", "2", "--steps", "5", "--learning-rate", "1e38", "--set", "clip=null", "--quiet")
    ended = command("adapt", tiny, "--data", data, "--out", out, *options)
    assert ended.status == 2
    assert "lora, update 2 (" in ended.err
    assert "data.jsonl line" in ended.err
    assert "the state after 1 updates is kept" in ended.err
    assert (out / "training.pt").is_file()
    assert not (out / "adapter_config.json").exists()
