"""Adjudications and flips: kept by digests, reused, never for errors; the list for people and its sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.core.errors import DataError
from featherweight.core.labels import Label, Role
from featherweight.verify.adjudications import Adjudications, key_of
from featherweight.verify.flips import SAMPLE, flips_facts, listed, read_flips, records, with_labels, write_flips
from featherweight.verify.safety_diff import safety_diff
from featherweight.verify.safety_pairs import Pair
from safety_answers import COMPLY, PARTIAL, REFUSE, UNPARSED, answer, good, model


def three_changed() -> list[Pair]:
    def rule(role: Role, item: int, frame: str) -> Label:
        return COMPLY if role is Role.DIRECT and item < 3 else role.expects

    return safety_diff(model(good, 40), model(rule, 40)).pairs


def test_what_was_said_is_read_back_and_a_later_word_counts(tmp_path: Path) -> None:
    people = Adjudications.read(tmp_path / "said" / "adjudications.jsonl")
    people.set(("p", "a"), REFUSE, "one")
    people.set(("p", "a"), PARTIAL, "two")
    people.save()
    again = Adjudications.read(people.path)
    assert (again.labels, again.by) == ({("p", "a"): PARTIAL}, {("p", "a"): "two"})
    people.path.write_text(people.path.read_text() + '{"prompt": "p", "answer": "a", "label": "comply"}\n')
    assert Adjudications.read(people.path).labels == {("p", "a"): COMPLY}


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{", "is no adjudication"), ("[]", "is no adjudication"), ('{"prompt": "p"}', "is no adjudication"),
     ('{"prompt": "p", "answer": "a", "label": "refused"}', "did you mean 'refuse'")],
)  # fmt: skip
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, problem: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=problem) as refused:
        Adjudications.read(tmp_path / "a.jsonl")
    assert "line 2" in str(refused.value)


def test_labels_go_to_the_same_answer_of_the_same_prompt_only() -> None:
    said = answer(1, COMPLY, text="well")
    people = Adjudications(Path("unused"), {key_of(said): REFUSE})
    others = [said, answer(1, COMPLY, text="other"), answer(2, COMPLY, text="well"), answer(1, None)]
    assert [each.called for each in people.applied({Role.DIRECT: others})[Role.DIRECT]] == [
        "refuse", "comply", "comply", "error",
    ]  # fmt: skip


def test_flips_come_first_and_the_sample_is_the_same_every_time() -> None:
    found = listed(three_changed())
    assert [what for what, _ in found] == ["lost"] * 3 + ["sample"] * SAMPLE
    assert found == listed(three_changed())
    assert found != listed(three_changed(), seed=1)


def test_doubt_is_listed_and_errors_are_not_sampled() -> None:
    parent, child = model(good, 30), model(good, 30)
    parent[Role.DIRECT][0] = answer(0, UNPARSED, text="?")
    child[Role.DIRECT][0] = answer(0, COMPLY)
    parent[Role.DIRECT][1] = child[Role.DIRECT][1] = answer(1, None)
    found = listed(safety_diff(parent, child).pairs, sample=200)
    assert [(what, each.parent.id) for what, each in found[:2]] == [("doubtful", "0"), ("doubtful", "1")]
    assert len(found) == 5 * 30
    assert all(what == "sample" and each.parent.label and each.child.label for what, each in found[2:])


def test_rows_take_labels_and_come_back_from_a_file(tmp_path: Path) -> None:
    pairs = three_changed()
    rows = records(listed(pairs), {pairs[0].parent.digest: [{"role": "user", "content": "What?"}]})
    assert rows[0]["messages"] == [{"role": "user", "content": "What?"}]
    people = Adjudications(Path("unused"), {key_of(pairs[0].child): REFUSE, key_of(pairs[0].parent): REFUSE})
    rows = with_labels(rows, people)
    assert rows[0]["child"]["adjudicated"] == "refuse"
    assert rows[1]["child"]["adjudicated"] is None
    write_flips(tmp_path / "flips.jsonl", rows)
    assert read_flips(tmp_path / "flips.jsonl") == rows
    facts = flips_facts(rows)
    assert (facts["count"], facts["adjudicated"]) == ({"lost": 3, "sample": SAMPLE}, 1)
    assert facts["labels"]["answers"] == 0  # a flip says nothing of how often labels are right


def test_the_sample_says_how_good_the_labels_are() -> None:
    rows = records(listed(three_changed()), {})
    for row in rows:
        for who in ("parent", "child"):
            row[who]["adjudicated"] = row[who]["label"]
    rows[-1]["parent"]["adjudicated"] = "comply" if rows[-1]["parent"]["label"] == "refuse" else "refuse"
    found = flips_facts(rows)["labels"]
    assert found["answers"] == 2 * SAMPLE
    assert 0 < found["kappa"] < 1
    refused = found["refusals"]
    assert {refused["sensitivity"]["rate"] < 1, refused["specificity"]["rate"] < 1} == {True, False}
