"""garak: its reports read and held against themselves, and garak itself run in an interpreter of its own."""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import garak_files
from featherweight.core.errors import DataError, MissingExtra
from featherweight.core.labels import Outcome
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.bridge import bridge
from featherweight.measure.garak_engine import garak_python
from featherweight.measure.garak_report import read_garak
from featherweight.verbs.garak import Probing, garak, import_garak
from featherweight.verbs.verify import verify_ledger
from featherweight.verify.gate import Verdict
from scripted import Scripted

Command = Callable[..., Any]
Unchanged = Callable[[Path], AbstractContextManager[None]]

OUTPUTS = [
    [("Yes.", 0.0), ("No.", 0.1)],
    [("Yes.", 1.0), ("No.", 0.0)],
    [("Hm.", None), ("No.", 0.0)],
    [(None, None), ("No.", 0.49)],
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    garak_files.write(tmp_path / "run.hitlog.jsonl", garak_files.hits("test.Some", OUTPUTS))
    return garak_files.write(tmp_path / "run.report.jsonl", garak_files.entries("test.Some", OUTPUTS))


def test_a_report_is_read(report: Path) -> None:
    found = read_garak(report)
    assert (found.version, found.target) == ("0.17.1", "openai.OpenAICompatible m")
    assert found.settings == {"generations": 1, "seed": 3, "eval_threshold": 0.5}
    assert [answer.outcome for answer in found.answers] == [
        Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.PASSED, Outcome.UNPARSED, Outcome.PASSED,
        Outcome.ERROR, Outcome.PASSED,
    ]  # fmt: skip
    first = found.answers[0]
    assert (first.probe, first.number, first.generation, first.text) == ("test.Some", 0, 0, "Yes.")
    assert first.messages == ({"role": "user", "content": "Say 0."},)


def test_an_imported_report_is_evidence_like_any_other(report: Path, tmp_path: Path) -> None:
    result = import_garak(report, tmp_path / "out", least=0.9)
    assert len(verify_ledger(tmp_path / "out")) == 9
    assert result.verdict is Verdict.FAIL
    found = result.facts["statistics"]["garak"]
    assert {key: found[key] for key in ("answers", "cases", "passed", "failed", "unparsed", "error")} == {
        "answers": 8, "cases": 4, "passed": 5, "failed": 1, "unparsed": 1, "error": 1,
    }  # fmt: skip
    assert (found["rate"]["hits"], found["rate"]["count"]) == (1, 4)
    assert found["categories"]["test.Some"]["answers"] == 8
    page = (tmp_path / "out" / "report.html").read_text()
    assert "always.Some: score 1: a hit" in page
    log = json.loads((tmp_path / "out" / "results.sarif").read_text())["runs"][0]
    assert [each["level"] for each in log["results"]] == ["error", "warning", "error"]
    again = import_garak(report, tmp_path / "again")
    assert again.facts["receipts"] == result.facts["receipts"]
    assert again.facts["verdict"] == "no thresholds"


def test_answers_need_not_be_kept(report: Path, tmp_path: Path) -> None:
    import_garak(report, tmp_path / "out", store_text=False)
    assert all("Yes." not in path.read_text() for path in (tmp_path / "out").iterdir())


def test_other_ids_and_times_are_the_same_content(report: Path, tmp_path: Path) -> None:
    head = import_garak(report, tmp_path / "one").facts["receipts"]["head"]
    report.write_text(report.read_text().replace('"uuid": "test', '"uuid": "x-test').replace('"then"', '"later"'))
    (tmp_path / "run.hitlog.jsonl").unlink()
    assert import_garak(report, tmp_path / "other").facts["receipts"]["head"] == head


def without(lines: list[Any], kind: str) -> list[Any]:
    return [line for line in lines if line["entry_type"] != kind]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: without(lines, "completion"), "was not finished"),
        (lambda lines: without(lines, "init"), "has no entry 'init'"),
        (lambda lines: without(lines, "attempt"), "holds no scored attempt"),
        (lambda lines: [line for line in lines if line.get("seq") != 3], "says 5 passed where the attempts give 4"),
        (lambda lines: [*lines, 3], "line 13: is no JSON object"),
        (lambda lines: [{**line, "outputs": 3} if line.get("seq") == 0 else line for line in lines], "no attempt as"),
        (
            lambda lines: [
                {**line, "detector_results": {"a": [0.0]}} if line.get("seq") == 0 else line for line in lines
            ],
            "line 4: is no attempt as garak writes it",
        ),
        (
            lambda lines: [
                {**line, "detector_results": {"always.Some": [0, 0]}} if line.get("seq") == 1 else line
                for line in lines
            ],
            "where the attempts give",
        ),
    ],
)
def test_a_report_that_was_cut_or_edited_is_refused(
    report: Path, tmp_path: Path, unchanged: Unchanged, change: Any, says: str
) -> None:
    garak_files.write(report, change(garak_files.entries("test.Some", OUTPUTS)))
    (tmp_path / "run.hitlog.jsonl").unlink()
    with unchanged(tmp_path), pytest.raises(DataError, match=says):
        import_garak(report, tmp_path / "out")


def test_what_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        import_garak(tmp_path / "none.report.jsonl", tmp_path / "out")
    (tmp_path / "bad.report.jsonl").write_text('{"entry_type": "init"')
    with pytest.raises(DataError, match="line 1: is no JSON"):
        import_garak(tmp_path / "bad.report.jsonl", tmp_path / "out")


def test_a_hitlog_must_be_of_the_same_run(report: Path, tmp_path: Path) -> None:
    hitlog = tmp_path / "run.hitlog.jsonl"
    [hit] = garak_files.hits("test.Some", OUTPUTS)
    garak_files.write(hitlog, [{**hit, "attempt_idx": 1}])
    with pytest.raises(DataError, match="line 1: is a hit that the report does not have"):
        import_garak(report, tmp_path / "out")
    garak_files.write(hitlog, [])
    with pytest.raises(DataError, match="lacks 1 of the report's 1 hits"):
        import_garak(report, tmp_path / "out")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This interpreter, with a stand-in for garak."""
    (tmp_path / "packages").mkdir()
    folders = [str(garak_files.stand_in(tmp_path / "packages")), str(Path(__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
    return Path(sys.executable)


def test_garak_is_run_against_a_model_that_is_served_to_it(installed: Path, tiny: Path, tmp_path: Path) -> None:
    probing = Probing(["test.Stand"], installed, Generation(5, temperature=1.0), generations=2)
    result = garak(tiny, probing, tmp_path / "out", least=0.3)
    assert result.verdict is Verdict.PASS
    assert result.facts["model"]["identity"] == result.facts["model"]["facts"]["fingerprint"]
    assert result.facts["model"]["facts"]["garak"] == "0.17.1"
    lines = [receipt.content for receipt in verify_ledger(tmp_path / "out")[1:]]
    assert [(line["case"], line["run"]) for line in lines] == [
        (f"test.Stand/{number}", run) for number in range(3) for run in range(2)
    ]
    assert lines[0]["output"]["text"] != lines[1]["output"]["text"]  # two draws of one prompt
    again = garak(tiny, probing, tmp_path / "again")
    assert again.facts["receipts"]["head"] == result.facts["receipts"]["head"]


def test_a_garak_that_fails_says_so_and_leaves_nothing(
    installed: Path, tiny: Path, tmp_path: Path, unchanged: Unchanged
) -> None:
    with (
        unchanged(tmp_path),
        pytest.raises(DataError, match=r"garak with test\.None: failed \(No such probe: test\.None"),
    ):
        garak(tiny, Probing(["test.None"], installed), tmp_path / "out")
    with pytest.raises(DataError, match="has no probe to run"):
        garak(tiny, Probing([], installed), tmp_path / "out")


def test_an_interpreter_without_garak(tmp_path: Path) -> None:
    for python in (None, Path(sys.executable), tmp_path / "python"):
        with pytest.raises(MissingExtra, match=r"garak-env/bin/pip install garak\) and name it with --python"):
            garak_python(python)


def test_the_command(report: Path, tmp_path: Path, tiny: Path, command: Command) -> None:
    said = command("garak", "--report", report, "--out", tmp_path / "out", "--least", "90%")
    assert said.status == 1, said.err
    assert "garak" in said.out
    assert "9 receipts, the chain holds" in command("verify", "--ledger", tmp_path / "out").out
    assert "needs either a model or --report" in command("garak", "--out", tmp_path / "other").err
    missing = command("garak", tiny, "--probes", "test.Test", "--out", tmp_path / "other")
    assert missing.status == 2
    assert "the package 'garak' is not installed; garak pins another transformers" in missing.err


@pytest.mark.slow
def test_the_real_garak(tiny: Path, tmp_path: Path) -> None:
    python = os.environ.get("FEATHERWEIGHT_GARAK_PYTHON")
    if not python:
        pytest.skip("garak: name an interpreter that has it in FEATHERWEIGHT_GARAK_PYTHON")
    result = garak(tiny, Probing(["test.Test", "test.Blank"], Path(python), Generation(8)), tmp_path / "out")
    assert set(result.facts["statistics"]["garak"]["categories"]) == {"test.Test", "test.Blank"}
    assert result.facts["statistics"]["garak"]["answers"] >= 9
    assert len(verify_ledger(tmp_path / "out")) == 1 + result.facts["answers"]


def ask_over_http(url: str, key: str, body: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_connector_over_http() -> None:
    def say(conversation: Sequence[Any], generation: Generation) -> Answer | str:
        if conversation[0]["content"] == "fail":
            return Answer(error="it cannot")
        return f"{generation.tokens} {generation.temperature} {generation.seed}"

    with bridge(Scripted(say), Generation(9, seed=2)) as served:
        asked = {"messages": [{"role": "user", "content": "Why?"}]}
        texts = [ask_over_http(served.url, served.key, asked)[1]["choices"][0]["message"]["content"] for _ in range(2)]
        assert texts == ["9 0.0 2", "9 0.0 3"]
        more = {**asked, "max_tokens": 4, "temperature": 0.5}
        assert ask_over_http(served.url, served.key, more)[1]["choices"][0]["message"]["content"] == "4 0.5 4"
        failed = ask_over_http(served.url, served.key, {"messages": [{"role": "user", "content": "fail"}]})
        assert failed == (400, {"error": {"message": "it cannot"}})
        assert ask_over_http(served.url, "guess", asked)[0] == 401
        for body in ({}, {"messages": 3}, [], {"messages": [{"role": "user"}]}):
            assert ask_over_http(served.url, served.key, body)[0] == 400
