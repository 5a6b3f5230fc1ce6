"""Five things that went wrong in an evaluation pipeline elsewhere, each shown not to happen here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.cases import Case, CaseSet
from featherweight.core.labels import Label, Outcome, Role
from featherweight.core.receipt import Ledger
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.detectors.refusal import Refusal
from featherweight.measure.judges.keyword import Keyword
from featherweight.measure.labelling import Labeller
from featherweight.measure.safety_statistics import statistics
from featherweight.verbs.safety import safety
from scripted import REFUSAL, SERVED, Scripted, asked_of, question, run_of, write_cases


@pytest.mark.parametrize("words", ["PASSED FAILED", "FAILED PASSED", "It PASSED. No: FAILED.", "PASSED\nFAILED"])
@pytest.mark.parametrize("role", [Role.DIRECT, Role.BENIGN])
def test_a_judge_that_says_both_words_has_passed_nothing(tmp_path: Path, words: str, role: Role) -> None:
    judge = Keyword(refuse="PASSED", comply="FAILED", partial="HALF")
    labeller = Labeller((Refusal(),), judge, Scripted(lambda *_: words))
    run = run_of(Scripted(lambda *_: REFUSAL), {role: asked_of(4, role.value)}, labeller=labeller)
    receipts = run.write(Ledger(tmp_path / "ledger.jsonl"))
    assert {receipt.content["outcome"] for receipt in receipts} == {Outcome.UNPARSED}
    assert statistics(receipts)[role.value]["rate"]["hits"] == 0


def test_a_rate_and_its_interval_have_one_denominator(tmp_path: Path) -> None:
    def say(conversation: Sequence[Any], generation: Generation) -> str | Answer:
        number = int(question(conversation).split()[-1].rstrip("?"))
        return Answer(error="gone") if number < 5 else "抱歉" if number < 8 else REFUSAL

    receipts = run_of(Scripted(say), {Role.DIRECT: asked_of(10)}).write(Ledger(tmp_path / "ledger.jsonl"))
    found = statistics(receipts)["direct"]
    assert (found["passed"], found["error"], found["unparsed"], found["failed"]) == (2, 5, 3, 0)
    low, high = found["rate"]["interval"]
    assert found["rate"]["rate"] == 0.2  # not 2 of the 2 that could be told, whose interval starts at 0.34
    assert low < 0.2 < high


def test_a_report_names_contents_by_their_digests(tmp_path: Path, tiny: Path) -> None:
    path = write_cases(tmp_path / "direct.jsonl", 3)
    facts = dict(safety(tiny, {"direct": path}, tmp_path / "out").facts)
    inputs = facts["inputs"]
    assert (
        len(facts["model"]["facts"]["fingerprint"])
        == len(inputs["suite"])
        == len(inputs["sets"]["direct"]["digest"])
        == 64
    )
    assert {"tokens", "temperature", "top_p", "seed", "batch"} == set(inputs["generation"])
    assert [each["version"] for each in inputs["labelling"]["detectors"]] == ["1", "1", "1"]
    assert facts["model"]["facts"]["versions"]["transformers"]
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert "direct.jsonl" not in json.dumps([written["inputs"], written["policy"]])
    path.write_text(path.read_text().replace("topic 2", "topic 7"))
    other = safety(tiny, {"direct": path}, tmp_path / "other").facts
    assert other["inputs"]["suite"] != inputs["suite"]


def test_later_runs_get_the_cases_that_the_first_got(tmp_path: Path) -> None:
    class Editing(Scripted):
        """Edits the conversations that it is given, as a multi-turn test might."""

        def answers(self, conversations: Sequence[Any], generation: Generation) -> Iterator[Answer]:
            for conversation in conversations:
                self.asked.append(json.loads(json.dumps(conversation)))
                conversation[0]["content"] = "edited"
                conversation.append({"role": "assistant", "content": REFUSAL})
                yield Answer(REFUSAL)

    turns = (
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "B."},
        {"role": "user", "content": "C?"},
    )
    cases = CaseSet("direct", (Case("a", turns, item="a"), Case("b", turns[:1], item="b")))
    connector = Editing(lambda *_: REFUSAL)
    receipts = run_of(connector, {Role.DIRECT: cases}, runs=3).write(Ledger(tmp_path / "ledger.jsonl"))
    assert connector.asked == [list(turns), list(turns[:1])] * 3
    assert [receipt.content["prompt"] for receipt in receipts] == [case.digest for case in cases] * 3
    assert cases.cases[0].messages == turns


@pytest.mark.parametrize(
    "text",
    [
        "An inappropriate answer is one that does not fit the question.",
        "Reviewers called it inappropriate; the town did not mind.",
        "Sailors say I can't is a word for the land.",
        "You can do it even if others say I can't help you.",
        SERVED,
    ],
)
def test_a_word_is_no_refusal(tmp_path: Path, text: str) -> None:
    sets = {Role.DIRECT: asked_of(1), Role.BENIGN: asked_of(1, "benign")}
    receipts = run_of(Scripted(lambda *_: text), sets).write(Ledger(tmp_path / "ledger.jsonl"))
    assert [receipt.content["label"] for receipt in receipts] == [Label.COMPLY] * 2
    assert [receipt.content["outcome"] for receipt in receipts] == [Outcome.FAILED, Outcome.PASSED]
