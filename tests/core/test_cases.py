"""Cases: what a file may hold, what is refused, and how framed sets pair with direct ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.cases import Case, CaseSet, paired, read_cases, require_same, user_case
from featherweight.core.errors import DataError


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_prompts_and_conversations_become_cases(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And now?"}]
    path = write(tmp_path / "set.jsonl", {"id": 7, "prompt": "Why?", "category": "a"}, {"id": "x", "messages": talk})
    cases = read_cases(path)
    assert cases.name == "set"
    assert [case.id for case in cases] == ["7", "x"]
    assert cases.cases[0] == user_case("7", "Why?", category="a")
    assert list(cases.cases[1].messages) == talk


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([{"prompt": "Why?"}], "line 1: has no 'id'"),
        ([{"id": "", "prompt": "Why?"}], "has no 'id'"),
        ([{"id": True, "prompt": "Why?"}], "has no 'id'"),
        ([{"id": "a", "prompt": "Why?"}, {"id": "a", "prompt": "How?"}], "line 2: has the id 'a' of an earlier line"),
        ([{"id": 1, "prompt": "Why?"}, {"id": "1", "prompt": "How?"}], "has the id '1' of an earlier line"),
        ([{"id": "a"}], "has no 'prompt'"),
        ([{"id": "a", "prompt": " \n"}], "has an empty 'prompt'"),
        ([{"id": "a", "prompt": 3}], "has no 'prompt'"),
        ([{"id": "a", "messages": []}], "no list of messages"),
        ([{"id": "a", "messages": [{"role": "user", "content": ""}]}], "message 1: has no role or no content"),
        ([{"id": "a", "messages": ["Why?"]}], "message 1: has no role"),
        (
            [{"id": "a", "messages": [{"role": "assistant", "content": "So."}]}],
            "ends with the assistant's turn",
        ),
        ([{"id": "a", "prompt": "Why?", "category": ["x"]}], "'category' that is no text"),
        (["Why?"], "is no JSON object"),
        ([], "holds no case"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, records: list[Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_cases(write(tmp_path / "set.jsonl", *records))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_cases(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"id": "a", "prompt": "für"}'.encode("latin-1"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read_cases(tmp_path / "latin.jsonl")
    (tmp_path / "cut.jsonl").write_text('{"id": "a", "prom', encoding="utf-8")
    with pytest.raises(DataError, match="line 1: is no JSON"):
        read_cases(tmp_path / "cut.jsonl")


def framed(*pairs: tuple[str, str]) -> CaseSet:
    return CaseSet("framed", tuple(user_case(f"f{index}", text, item=item) for index, (item, text) in enumerate(pairs)))


def test_framed_cases_find_their_items() -> None:
    direct = CaseSet("direct", (user_case("a", "A?"), user_case("b", "B?")))
    found = paired(direct, framed(("b", "story: B?"), ("a", "story: A?"), ("a", "class: A?")))
    assert {item: [case.id for case in cases] for item, cases in found.items()} == {"a": ["f1", "f2"], "b": ["f0"]}


def test_sets_that_do_not_pair_are_refused() -> None:
    direct = CaseSet("direct", (user_case("alpha", "A?"), user_case("beta", "B?")))
    with pytest.raises(DataError, match="did you mean 'alpha'"):
        paired(direct, framed(("alpah", "story: A?"), ("beta", "story: B?")))
    with pytest.raises(DataError, match="no framed case for 1 of 2 items, such as 'beta'"):
        paired(direct, framed(("alpha", "story: A?")))


def test_two_runs_must_have_asked_the_same() -> None:
    cases = [user_case("a", "A?"), user_case("b", "B?")]
    require_same(cases, list(cases), "direct")
    for other in (cases[::-1], cases[:1], [cases[0], user_case("b", "Be?")]):
        with pytest.raises(DataError, match="direct"):
            require_same(cases, other, "direct")


identities = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(identities, identities), min_size=1, unique_by=lambda pair: pair[0]))
def test_a_digest_names_what_is_asked(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    path = write(tmp_path_factory.mktemp("cases") / "set.jsonl", *({"id": i, "prompt": p} for i, p in pairs))
    cases = read_cases(path)
    again = CaseSet("set", tuple(user_case(identity, prompt) for identity, prompt in pairs))
    assert cases.digest == again.digest
    changed = Case(again.cases[0].id, ({"role": "user", "content": again.cases[0].messages[0]["content"] + "!"},))
    assert CaseSet("set", (changed, *again.cases[1:])).digest != cases.digest
