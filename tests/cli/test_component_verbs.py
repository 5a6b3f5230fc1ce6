"""audit-component and distill-component from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featherweight.testing.encoders import phrases, tiny_bert, tiny_clip
from featherweight.testing.tiny import write_json

Refused = Callable[..., str]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tiny_clip(tmp_path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.txt"
    path.write_text("\n".join(phrases()))
    return path


class TestAudit:
    def test_the_table_fits_a_terminal(
        self, command: Callable[..., Any], clip: Path, log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        out = tmp_path / "audit.json"
        ended = command("audit-component", clip, "--component", "text_model", "--prompts", log, "--out", out, "--quiet")
        assert ended.status == 0, ended.err
        assert max(map(len, ended.out.splitlines())) <= 80
        for word in ("density", "padding", "intrinsic dimension", "participation ratio", "context 8", "ids in use"):
            assert word in " ".join(ended.out.split()), word
        assert json.loads(out.read_text())["workload"]["longest"] == 7

    def test_it_writes_nothing(
        self, command: Callable[..., Any], unchanged: Callable[[Path], Any], tmp_path: Path, log: Path
    ) -> None:
        host = tiny_bert(tmp_path)
        with unchanged(tmp_path):
            assert command("audit-component", host, "--prompts", log, "--quiet").status == 0

    def test_a_log_of_one_line(self, refused: Refused, clip: Path, tmp_path: Path) -> None:
        log = tmp_path / "log.txt"
        log.write_text("a red dog\n")
        said = refused("audit-component", clip, "--component", "text_model", "--prompts", log)
        assert "holds 1 prompt, from which no distribution can be told; give the log of real use" in said
        said = refused(
            "distill-component", clip, "--component", "text_model", "--prompts", log, "--out", tmp_path / "x"
        )
        assert "holds 1 prompt" in said

    def test_components_that_cannot_be(self, refused: Refused, clip: Path, log: Path) -> None:
        for name, says in {
            "text_modle": "does not exist; did you mean 'text_model'",
            "vision_model": "takes no token ids (it is a CLIPVisionModel); give one of",
            ".": "gives no token states for text alone (CLIPModel); give one of",
        }.items():
            assert says in refused("audit-component", clip, "--component", name, "--prompts", log)

    def test_hosts_that_cannot_be(self, refused: Refused, clip: Path, log: Path, tmp_path: Path) -> None:
        def said() -> str:
            return refused("audit-component", clip, "--component", "text_model", "--prompts", log)

        assert "nowhere: does not exist" in refused("audit-component", "nowhere", "--prompts", log)
        write_json(clip / "config.json", {"architectures": ["MyModel"]})
        assert "has the class MyModel, which transformers does not hold" in said()
        write_json(clip / "config.json", {"architectures": ["CLIPModel"]})
        shutil.move(clip / "tokenizer.json", tmp_path / "moved.json")
        assert "has no usable tokenizer" in said()
        shutil.move(tmp_path / "moved.json", clip / "tokenizer.json")
        whole = (clip / "model.safetensors").read_bytes()
        (clip / "model.safetensors").write_bytes(whole[:-1])
        assert "is truncated" in said()

    def test_output_exists(self, refused: Refused, clip: Path, log: Path) -> None:
        said = refused("audit-component", clip, "--component", "text_model", "--prompts", log, "--out", log)
        assert "exists already" in said


class TestDistill:
    def test_a_small_run(
        self, command: Callable[..., Any], clip: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        settings = ("width=16", "heads=2", "layers=1", "context=8", "epochs=1")
        options = [part for each in settings for part in ("--set", each)]
        ended = command(
            "distill-component", clip, "--component", "text_model", "--prompts", log, "--out", tmp_path / "made",
            "--quiet", *options,
        )  # fmt: skip
        assert ended.status == 0, ended.err
        assert "with a new word" in ended.out
        assert max(map(len, ended.out.splitlines()[:4])) <= 80
        assert "are the host's, bit for bit" in ended.out
        assert (tmp_path / "made" / "model.safetensors").is_file()

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ("widht=3", "--set widht=3: sets no field of a student; did you mean 'width'"),
            ("width", "--set width: sets no field"),
            ("layers=-1", "--set layers=-1: input should be greater than or equal to 0"),
            ("context=99", "context = 99: is more than the 77 tokens that the teacher takes"),
        ],
    )
    def test_bad_settings(
        self, refused: Refused, clip: Path, log: Path, tmp_path: Path, setting: str, says: str
    ) -> None:
        options = ("--component", "text_model", "--prompts", log, "--out", tmp_path / "out" / "made")
        said = refused("distill-component", clip, *options, "--set", setting)
        assert says in said

    def test_a_tied_head(self, refused: Refused, log: Path, tmp_path: Path) -> None:
        host = tiny_bert(tmp_path, kind="BertForMaskedLM")
        said = refused("distill-component", host, "--component", "bert", "--prompts", log, "--out", tmp_path / "made")
        assert "shares weights with cls.predictions.decoder.weight" in said
