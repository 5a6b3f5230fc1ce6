"""The policy file: what it holds, and one sentence for everything that can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.errors import DataError, PolicyError
from featherweight.core.labels import Role
from featherweight.core.policy import Plugin, suite_digest
from featherweight.core.policy_file import parse_policy, read_policy

WHOLE = r"""
sets: {direct: sets/refuse.jsonl, framed: sets/framed.jsonl, benign: sets/benign.jsonl}
detectors: [refusal, pattern: {comply: ["the code is \\d+"]}]
judge: {model: judge, served: one, key_file: key.txt, settings: {tokens: 8}}
generation: {tokens: 12, temperature: 0.7, seed: 3}
runs: 2
thresholds: {direct: 90%, benign: 0.8}
margins: {direct: 1%}
store_text: false
"""


def write(folder: Path, text: str = WHOLE) -> Path:
    (folder / "sets").mkdir(exist_ok=True)
    lines: dict[str, list[dict[str, Any]]] = {
        "refuse": [{"id": "a", "prompt": "What of t1?"}, {"id": "b", "prompt": "What of t2?"}],
        "framed": [{"id": "c", "prompt": "story: t1?", "item": "a"}, {"id": "d", "prompt": "story: t2?", "item": "b"}],
        "benign": [{"id": "a", "prompt": "What of t9?"}],
    }
    for name, records in lines.items():
        path = folder / "sets" / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    (folder / "policy.yaml").write_text(text, encoding="utf-8")
    return folder / "policy.yaml"


def test_a_whole_policy(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path))
    assert policy.sets.direct == tmp_path / "sets" / "refuse.jsonl"
    assert policy.detectors == (
        Plugin(name="refusal"),
        Plugin(name="pattern", settings={"comply": [r"the code is \d+"]}),
    )
    assert policy.judge is not None
    assert (policy.judge.model, policy.judge.key_file) == ("judge", tmp_path / "key.txt")
    assert (policy.generation.tokens, policy.generation.batch, policy.runs, policy.store_text) == (12, 8, 2, False)
    assert (policy.thresholds.direct, policy.thresholds.framed, policy.thresholds.benign) == (0.9, None, 0.8)
    assert (policy.margins.direct, policy.margins.framed) == (0.01, 0.02)
    assert {role: len(cases) for role, cases in policy.case_sets().items()} == {
        Role.DIRECT: 2, Role.FRAMED: 2, Role.BENIGN: 1,
    }  # fmt: skip


def test_a_judge_beside_the_policy_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    judge = read_policy(write(tmp_path)).judge
    assert judge is not None
    assert judge.model == str(tmp_path / "judge")


def test_what_a_policy_leaves_out() -> None:
    policy = parse_policy("sets: {direct: a.jsonl}", "policy", Path())
    assert [each.name for each in policy.detectors] == ["empty", "repetition", "refusal"]
    assert policy.judge is None
    assert policy.generation.temperature == 0


def test_facts_and_digests_name_contents_and_not_places(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places:
        place.mkdir()
    one, other = (read_policy(write(place)) for place in places)
    assert one.facts() == other.facts()
    assert "key.txt" not in json.dumps(one.facts())
    assert suite_digest(one.case_sets()) == suite_digest(other.case_sets())
    path = places[1] / "sets" / "benign.jsonl"
    path.write_text(path.read_text().replace("t9", "t8"))
    assert suite_digest(one.case_sets()) != suite_digest(other.case_sets())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "policy.yaml: holds no policy"),
        ("a: [", "policy.yaml: is not valid YAML"),
        ("sets: {direct: a}\nsets: {benign: b}", "the key 'sets' is given twice"),
        ("set: {direct: a}", "policy.yaml, sets: is missing"),
        ("sets: {direkt: a}", "policy.yaml, sets.direkt: is unknown; did you mean 'direct'"),
        ("sets: {direct: a}\nthreshold: 1", "policy.yaml, threshold: is unknown; did you mean 'thresholds'"),
        ("sets: {}", "policy.yaml, sets: names no file"),
        ("sets: {framed: a}", "policy.yaml, sets: has framed cases without the direct ones"),
        ("sets: {direct: [a]}", "policy.yaml, sets.direct: "),
        ("sets: {direct: a}\nruns: 0", "policy.yaml, runs: .* and is 0"),
        ("sets: {direct: a}\nmargins: {gap: 2 points}", "margins.gap: must be a share such as 2%"),
        ("sets: {direct: a}\nthresholds: {direct: 95}", "thresholds.direct: .*less than or equal to 1 and is 95"),
        ("sets: {direct: a}\ndetectors: []", "policy.yaml, detectors: "),
        ("sets: {direct: a}\ndetectors: [3]", "detectors.0: must be a name, or a name with its settings"),
        ("sets: {direct: a}\ngeneration: {tokenz: 3}", "generation.tokenz: is unknown; did you mean 'tokens'"),
        ("sets: {direct: a}\njudge: {}", "policy.yaml, judge.model: is missing"),
    ],
)
def test_a_bad_policy_is_refused_with_its_field(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(PolicyError, match=says):
        read_policy(tmp_path / "policy.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"safety policy .* does not exist"):
        read_policy(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("sets: {direct: für}".encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_policy(tmp_path / "latin.yaml")
    with pytest.raises(DataError, match=r"prompt file .* does not exist"):
        parse_policy("sets: {direct: none.jsonl}", "policy", tmp_path).case_sets()


def test_framed_cases_must_pair(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "sets" / "framed.jsonl").write_text('{"id": "c", "prompt": "story: t1?", "item": "a"}\n')
    with pytest.raises(DataError, match="no framed case for 1 of 2 items, such as 'b'"):
        read_policy(path).case_sets()
