"""A safety run: one receipt a case and run whatever happens, a chain that holds, and the same run twice the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.cases import Case, CaseSet
from featherweight.core.errors import DataError, LedgerError
from featherweight.core.labels import Label, Role
from featherweight.core.receipt import Ledger, Receipt, read_ledger
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.labelling import Labeller
from featherweight.measure.safety import SafetyRun
from featherweight.measure.safety_statistics import counts, require_counts, statistics
from scripted import REFUSAL, SERVED, Neighbourly, Scripted, asked_of, canary, question, run_of


def written(run: SafetyRun, folder: Path) -> list[Receipt]:
    return run.write(Ledger(folder / "ledger.jsonl", 9.0))


def by_number(refused: int) -> Scripted:
    """Refuses the first so many topics."""

    def say(conversation: Sequence[Any], generation: Generation) -> str:
        return REFUSAL if int(question(conversation).split()[-1].rstrip("?")) < refused else SERVED

    return Scripted(say)


@pytest.mark.parametrize(
    ("refused", "count", "low", "high"), [(0, 100, 0.0, 0.0370), (95, 100, 0.888, 0.978), (10, 10, 0.7225, 1.0)]
)
def test_counts_and_intervals_are_exact(tmp_path: Path, refused: int, count: int, low: float, high: float) -> None:
    sets = {Role.DIRECT: asked_of(count), Role.BENIGN: asked_of(count, "benign")}
    receipts = written(run_of(by_number(refused), sets, generation=Generation(batch=7)), tmp_path)
    found = statistics(receipts)
    assert counts(receipts) == {
        "direct": {"passed": refused, "failed": count - refused, "unparsed": 0, "error": 0},
        "benign": {"passed": count - refused, "failed": refused, "unparsed": 0, "error": 0},
    }
    assert found["direct"]["rate"] == {
        "hits": refused, "count": count, "rate": refused / count,
        "interval": [pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4)],
    }  # fmt: skip
    assert found["direct"]["labels"] == {"refuse": refused, "partial": 0, "comply": count - refused, "unparsed": 0}


def test_categories_are_counted_by_themselves(tmp_path: Path) -> None:
    cases = tuple(
        Case(case.id, case.messages, "even" if index % 2 == 0 else "odd", case.id)
        for index, case in enumerate(asked_of(9))
    )
    found = statistics(written(run_of(by_number(3), {Role.DIRECT: CaseSet("direct", cases)}), tmp_path))
    assert {name: (each["passed"], each["cases"]) for name, each in found["direct"]["categories"].items()} == {
        "even": (2, 5), "odd": (1, 4),
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
@pytest.mark.parametrize("broken", [0, 4, 9])
def test_a_connector_that_raises_loses_no_case(tmp_path: Path, batch: int, broken: int) -> None:
    def say(conversation: Sequence[Any], generation: Generation) -> str:
        if question(conversation) == f"What of topic {broken}?":
            raise RuntimeError("the model fell over")
        return REFUSAL

    receipts = written(run_of(Scripted(say), generation=Generation(batch=batch)), tmp_path)
    assert [receipt.content["case"] for receipt in receipts] == [f"direct-{index}" for index in range(10)]
    outcomes = [receipt.content["outcome"] for receipt in receipts]
    assert outcomes == ["passed"] * broken + ["error"] * (10 - broken)
    assert receipts[broken].content["error"] == "the connector broke off: the model fell over"
    assert receipts[broken].content["output"] is None


def test_answers_that_a_connector_forgets_are_errors(tmp_path: Path) -> None:
    class Forgetful(Scripted):
        def answers(self, conversations: Sequence[Any], generation: Generation) -> Any:
            return itertools.islice(super().answers(conversations, generation), 4)

    receipts = written(run_of(Forgetful(lambda *_: REFUSAL)), tmp_path)
    assert [receipt.content["outcome"] for receipt in receipts] == ["passed"] * 4 + ["error"] * 6


def test_an_error_is_one_case_and_costs_no_other(tmp_path: Path) -> None:
    def say(conversation: Sequence[Any], generation: Generation) -> Answer | str:
        return Answer(error="too long") if question(conversation).endswith("3?") else REFUSAL

    found = statistics(written(run_of(Scripted(say)), tmp_path))["direct"]
    assert (found["answers"], found["passed"], found["error"], found["unparsed"]) == (10, 9, 1, 0)
    assert found["rate"]["count"] == 10
    assert found["broken"] == 1


def test_what_nobody_can_tell_is_never_safe(tmp_path: Path) -> None:
    sets = {role: asked_of(6, role.value) for role in Role}
    receipts = written(run_of(Scripted(lambda *_: "Hm."), sets, labeller=Labeller((canary(),))), tmp_path)
    assert {receipt.content["outcome"] for receipt in receipts} == {"unparsed"}
    assert all(each["rate"]["hits"] == 0 and each["unparsed"] == 6 for each in statistics(receipts).values())


def test_nothing_to_ask_is_refused(tmp_path: Path) -> None:
    for sets in ({}, {Role.DIRECT: CaseSet("direct", ())}, {Role.DIRECT: asked_of(2), Role.BENIGN: CaseSet("b", ())}):
        run = SafetyRun(sets, Scripted(lambda *_: REFUSAL), Labeller((canary(),)))
        with pytest.raises(DataError, match="has a set without a case"):
            written(run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_line_holds_all_that_its_answer_depends_on(tmp_path: Path) -> None:
    run = run_of(Scripted(lambda *_: REFUSAL), generation=Generation(12, 0.7, 0.9, 3, 4), runs=2)
    receipts = written(run, tmp_path)
    line, again = receipts[0].content, receipts[10].content
    assert line["case"] == "direct-0"
    assert line["prompt"] == run.sets[Role.DIRECT].cases[0].digest
    assert line["suite"] == run.inputs["suite"]
    assert line["model"] == {"backend": "script", "fingerprint": "f" * 64}
    assert line["generation"] == {"tokens": 12, "temperature": 0.7, "top_p": 0.9, "seed": 3, "batch": 4}
    assert again["generation"]["seed"] == 4
    assert (line["run"], again["run"]) == (0, 1)
    assert line["output"]["text"] == REFUSAL
    assert line["findings"] == [
        {"detector": "refusal", "version": "1", "label": "refuse", "reason": "opens with a refusal"}
    ]
    assert line["judge"] is None
    assert (line["label"], line["outcome"], line["error"]) == ("refuse", "passed", "")
    assert {"time", "host", "seconds"} <= set(receipts[0].volatile)
    assert not {"time", "host", "seconds"} & set(line)


def test_answers_need_not_be_kept(tmp_path: Path) -> None:
    kept = written(run_of(Scripted(lambda *_: REFUSAL)), tmp_path)
    (tmp_path / "ledger.jsonl").rename(tmp_path / "kept.jsonl")
    hashed = written(run_of(Scripted(lambda *_: REFUSAL), store_text=False), tmp_path)
    assert REFUSAL not in (tmp_path / "ledger.jsonl").read_text()
    assert [each.content["output"]["sha256"] for each in hashed] == [each.content["output"]["sha256"] for each in kept]
    assert [each.content["label"] for each in hashed] == [each.content["label"] for each in kept]


def test_the_same_run_has_the_same_hash(tmp_path: Path) -> None:
    heads = []
    for name in ("one", "other", "seed", "model"):
        (tmp_path / name).mkdir()
        connector = Neighbourly() if name != "model" else Scripted(lambda *_: REFUSAL)
        generation = Generation(seed=1 if name == "seed" else 0, batch=3)
        heads.append(written(run_of(connector, generation=generation), tmp_path / name)[-1].digest)
    assert heads[0] == heads[1]
    assert len(set(heads)) == 3


@settings(max_examples=25)
@given(st.integers(0, 40), st.integers(1, 12))
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, kept: int, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    sets = {Role.DIRECT: asked_of(13), Role.BENIGN: asked_of(6, "benign")}
    run = run_of(Neighbourly(), sets, generation=Generation(batch=batch), runs=2)
    whole = [receipt.digest for receipt in written(run, folder)]
    path = folder / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:kept]) + '{"half a li')
    assert [receipt.digest for receipt in written(run, folder)] == whole
    assert [receipt.digest for receipt in written(run, folder)] == whole  # and is not asked again when it is done


def test_a_ledger_of_another_run_is_refused(tmp_path: Path) -> None:
    written(run_of(Scripted(lambda *_: REFUSAL)), tmp_path)
    for other in (run_of(Scripted(lambda *_: REFUSAL), {Role.DIRECT: asked_of(9)}), run_of(Neighbourly())):
        with pytest.raises(LedgerError, match="is of another run"):
            written(other, tmp_path)


@pytest.mark.parametrize("line", [1, 5, 10])
def test_every_tampering_is_named(tmp_path: Path, line: int) -> None:
    written(run_of(by_number(5)), tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    flipped = lines[line].replace('"outcome": "failed"', '"outcome": "passed"').replace('"run": 0', '"run": 1')
    changed = [*lines[:line], flipped, *lines[line + 1 :]]
    path.write_text("".join(changed))
    with pytest.raises(LedgerError, match=f"line {line + 1}: was changed"):
        read_ledger(path)
    path.write_text("".join(lines[: line - 1] + lines[line:]))
    with pytest.raises(LedgerError, match=f"line {line}: does not follow"):
        read_ledger(path)
    path.write_text("".join([*lines[: line - 1], lines[line], lines[line - 1], *lines[line + 1 :]]))
    with pytest.raises(LedgerError, match=f"line {line}: does not follow"):
        read_ledger(path)


def test_counts_of_a_manifest_are_checked(tmp_path: Path) -> None:
    receipts = written(run_of(by_number(5)), tmp_path)
    told = json.loads(json.dumps(counts(receipts)))
    require_counts(receipts, told, "result.json")
    told["direct"]["passed"] += 1
    with pytest.raises(LedgerError, match=r"result\.json, counts of direct: says"):
        require_counts(receipts, told, "result.json")
    with pytest.raises(LedgerError, match="counts of benign"):
        require_counts(receipts, {**counts(receipts), "benign": {}}, "result.json")


def test_a_case_passes_when_it_passes_in_every_run(tmp_path: Path) -> None:
    def say(conversation: Sequence[Any], generation: Generation) -> str:
        return SERVED if generation.seed == 1 and question(conversation) == "What of topic 0?" else REFUSAL

    found = statistics(written(run_of(Scripted(say), runs=3), tmp_path))["direct"]
    assert (found["answers"], found["passed"], found["failed"]) == (30, 29, 1)
    assert (found["rate"]["hits"], found["rate"]["count"]) == (9, 10)
    assert (found["changed"]["hits"], found["changed"]["count"]) == (1, 10)


@given(st.lists(st.sampled_from([*Label, None]), min_size=1, max_size=12), st.sampled_from(Role))
def test_outcomes_always_add_up(
    tmp_path_factory: pytest.TempPathFactory, labels: list[Label | None], role: Role
) -> None:
    texts = {Label.REFUSE: REFUSAL, Label.COMPLY: SERVED, Label.PARTIAL: "Half.", Label.UNPARSED: "Hm."}
    script = iter(labels)

    def say(conversation: Sequence[Any], generation: Generation) -> Answer | str:
        label = next(script)
        return Answer(error="gone") if label is None else texts[label]

    labeller = Labeller((canary().model_copy(update={"partial": ("Half.",)}),))
    sets = {role: asked_of(len(labels), role.value)}
    found = statistics(
        run_of(Scripted(say), sets, labeller=labeller).write(Ledger(tmp_path_factory.mktemp("r") / "ledger.jsonl", 9))
    )[role.value]
    assert found["passed"] + found["failed"] + found["unparsed"] + found["error"] == len(labels)
    assert found["passed"] == found["rate"]["hits"] == sum(label is role.expects for label in labels)
    assert found["rate"]["count"] == len(labels)
    low, high = found["rate"]["interval"]
    assert low <= found["rate"]["rate"] <= high
