"""verify with inputs that must be refused: one sentence, status 2, nothing written."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_server import ChatServer, Hang
from featherweight.testing.tiny import tiny_model

Refused = Callable[..., str]
GOOD = {"id": "a", "prompt": "Why?"}


@pytest.fixture
def verify(refused: Refused, tiny: Path, tmp_path: Path) -> Refused:
    """verify of a tiny model against itself with bad options, into a folder that must not appear."""

    def run(*options: object) -> str:
        said = refused("verify", tiny, tiny, "--quiet", "--out", tmp_path / "runs" / "verdict", *options)
        assert not (tmp_path / "runs").exists()
        return said

    return run


def lines(path: Path, *records: object) -> Path:
    """A .jsonl file; texts are written as they are."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


class TestModels:
    def test_none_at_all(self, refused: Refused) -> None:
        assert "verify: needs a parent and a child; or give a run with --ledger." in refused("verify")

    def test_no_child(self, refused: Refused, tiny: Path) -> None:
        assert "needs a parent and a child" in refused("verify", tiny)

    def test_a_child_that_is_not_there(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        said = refused("verify", tiny, tmp_path / "none", "--out", tmp_path / "verdict")
        assert "none: does not exist; give a model folder" in said

    def test_one_twice(self, refused: Refused, tiny: Path) -> None:
        assert f"{tiny}: is given twice; give each child once." in refused("verify", tiny, tiny, tiny)

    def test_another_vocabulary(self, refused: Refused, tiny: Path, models_folder: Path) -> None:
        other = tiny_model(models_folder, vocab_size=640)
        said = refused("verify", tiny, other, "--quiet")
        assert "predicts 640 tokens where its parent predicts 512" in said

    def test_several_for_one_server(self, refused: Refused, tiny: Path, trained: Path) -> None:
        said = refused("verify", tiny, tiny, trained, "--engine", "http://localhost:1")
        assert "--engine http://localhost:1: serves one model, and 2 are given" in said

    def test_an_output_that_is_there(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "verdict").mkdir()
        said = refused("verify", tiny, tiny, "--out", tmp_path / "verdict")
        assert "verdict: exists already; choose another folder" in said

    def test_an_output_below_a_file(self, refused: Refused, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert "cannot be written" in refused("verify", tiny, tiny, "--quiet", "--out", tmp_path / "file" / "verdict")


class TestNumbers:
    @pytest.mark.parametrize(
        ("option", "value", "says"),
        [
            ("--quality", "120%", "--quality 120%: is above 100 % of the parent"),
            ("--quality", "0%", "must be above zero"),
            ("--domain-quality", "much", "--domain-quality 'much': is not a number with a unit"),
            ("--kl", "-1", "--kl -1.0: is no divergence; give nats a token, 0 or more."),
            ("--kl", "nan", "is no divergence"),
            ("--agreement", "2", "--agreement 2: is above 100 %"),
            ("--memory", "92", "has no unit"),
            ("--tolerance", "100%", "--tolerance 100%: allows everything to be lost"),
            ("--task-margin", "-1%", "must be above zero"),
            ("--layer-limit", "x", "--layer-limit 'x': is not a number"),
            ("--answers", "-1", "--answers -1: is less than 0; give 0 or more."),
            ("--answer-tokens", "0", "--answer-tokens 0: is less than 1"),
            ("--task-limit", "0", "--task-limit 0: leaves no question"),
            ("--timeout", "0", "--timeout 0.0: is no time to wait"),
            ("--device", "tpu", "--device 'tpu': is no device of this machine"),
            ("--margin", "2%", "--margin 2%: has no cases to apply to; give --safety, or --prompts and others."),
        ],
    )
    def test_refused(self, verify: Refused, option: str, value: str, says: str) -> None:
        assert says in verify(option, value)

    def test_unknown_task(self, verify: Refused) -> None:
        said = verify("--tasks", "helaswag")
        assert "helaswag" in said or "featherweight[eval]" in said


class TestFiles:
    def test_layer_labels(self, verify: Refused, tmp_path: Path) -> None:
        assert "--layer-labels 'kinds': is neither known nor a file; did you mean 'kind'" in verify(
            "--layers", "--layer-labels", "kinds"
        )
        path = lines(tmp_path / "labels.jsonl", {"text": "So."})
        assert "line 1" in verify("--layers", "--layer-labels", path)

    @pytest.mark.parametrize("option", ["--prompts", "--questions", "--benign", "--capability"])
    @pytest.mark.parametrize(
        ("records", "says"),
        [
            ([{"prompt": "Why?"}], "line 1: has no 'id'"),
            ([GOOD, GOOD], "line 2: has the id 'a' of an earlier line"),
            ([{"id": "a", "prompt": "  "}], "line 1: has an empty 'prompt'"),
            ([{"id": "a"}], "has no 'prompt' and no 'messages'"),
            (["{"], "line 1: is no JSON"),
            ([""], "holds no case"),
        ],
        ids=["no id", "twice", "empty text", "no prompt", "no JSON", "empty file"],
    )
    def test_cases(self, verify: Refused, tmp_path: Path, option: str, records: list[object], says: str) -> None:
        assert says in verify(option, lines(tmp_path / "cases.jsonl", *records))

    @pytest.mark.parametrize("option", ["--prompts", "--questions", "--text"])
    def test_encoding_and_absence(self, verify: Refused, tmp_path: Path, option: str) -> None:
        (tmp_path / "latin.jsonl").write_bytes('{"id": 1, "prompt": "é", "text": "é"}\n'.encode("latin-1"))
        assert "latin.jsonl: is not UTF-8 text; convert it" in verify(option, tmp_path / "latin.jsonl")
        assert "does not exist" in verify(option, tmp_path / "none.jsonl")

    def test_pairs_that_do_not_match(self, verify: Refused, tmp_path: Path) -> None:
        direct = lines(tmp_path / "direct.jsonl", GOOD, {"id": "b", "prompt": "How?"})
        framed = lines(tmp_path / "framed.jsonl", {"id": "f", "prompt": "Tale: why?", "item": "c"})
        said = verify("--prompts", direct, "--framed", framed)
        assert "case 'f': asks the item 'c', which is unknown" in said
        lines(framed, {"id": "f", "prompt": "Tale: why?", "item": "a"})
        assert "has no framed case for 1 of 2 items, such as 'b'" in verify("--prompts", direct, "--framed", framed)

    def test_framed_alone(self, verify: Refused, tmp_path: Path) -> None:
        framed = lines(tmp_path / "framed.jsonl", GOOD)
        assert "asks in other words what no file asks directly; give --prompts too." in verify("--framed", framed)

    def test_text_that_is_too_short(self, verify: Refused, tmp_path: Path) -> None:
        (tmp_path / "short.txt").write_text("A few words.")
        assert "is too short" in verify("--text", tmp_path / "short.txt")

    def test_policies(self, verify: Refused, tmp_path: Path) -> None:
        policy, cases = tmp_path / "policy.yaml", lines(tmp_path / "cases.jsonl", GOOD)
        assert "does not exist" in verify("--safety", policy)
        policy.write_text("sets: {direct: cases.jsonl}\nmargin: 2%\n")
        assert "margin: is unknown; did you mean 'margins'" in verify("--safety", policy)
        policy.write_text("sets: {direct: cases.jsonl}\ndetectors: [refusals]\n")
        assert "did you mean 'refusal'" in verify("--safety", policy)
        policy.write_text("sets: {direct: cases.jsonl}\n")
        assert "has both --safety and files of cases" in verify("--safety", policy, "--benign", cases)


class TestServers:
    @pytest.mark.parametrize("option", ["--engine", "--parent-engine"])
    def test_nobody_there(self, verify: Refused, option: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert f"{url}/v1: cannot be reached (Connection refused); start the server" in verify(option, url)

    def test_no_address(self, verify: Refused) -> None:
        assert "is no address of a server" in verify("--engine", "localhost:8080")

    def test_a_key_that_is_not_there(self, verify: Refused, tmp_path: Path) -> None:
        with ChatServer(lambda body: "So.").running() as server:
            said = verify("--engine", server.url, "--key-file", tmp_path / "none")
        assert "key file" in said
        assert "cannot be read" in said

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (Hang(), "did not answer within 1.5 s"),
            ((200, b"<html>"), "is not JSON"),
            ((200, b"{}"), "answered without choices"),
            ((500, b"{}"), "answered with status 500"),
        ],
        ids=["hangs", "html", "other JSON", "500"],
    )
    def test_a_server_that_fails_cannot_be_told(
        self, command: Callable[..., object], tiny: Path, answer: object, says: str
    ) -> None:
        """It is no bad input: what came and what did not is on record, and the status is 2 all the same."""
        patience = "1.5" if isinstance(answer, Hang) else "30"
        with ChatServer(lambda body: answer).running() as server:
            ended = command("verify", tiny, "--engine", server.url, "--answers", "1", "--timeout", patience, "--quiet")
        assert ended.status == 2  # type: ignore[attr-defined]
        assert says in ended.out  # type: ignore[attr-defined]
        assert ended.out.rstrip().endswith("cannot tell")  # type: ignore[attr-defined]
