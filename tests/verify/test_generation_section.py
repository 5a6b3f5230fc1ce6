"""Generation checks: what is new decides, what the parent does too does not, and silence is never good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.cases import user_case
from featherweight.measure.answers import Answer
from featherweight.measure.defects import Defect
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.generation_section import answered_cases, generation_section

GOOD, EMPTY, LEAK = (
    Answer("Because it is warm.", ended=True),
    Answer("", ended=True),
    Answer("So.<|im_start|>", ended=True),
)
LOOP, CUT = Answer("no " * 40, ended=True), Answer("Because it is", ended=False)
ERROR = Answer(error="did not answer within 60 s")
some_answers = st.sampled_from([GOOD, EMPTY, LEAK, LOOP, CUT])


def checks(parent: list[Answer], child: list[Answer], **changes: float) -> dict[str, Check]:
    cases = [user_case(str(number), f"Why {number}?") for number in range(len(parent))]
    section = generation_section(answered_cases(cases, parent, child), **changes)
    return {check.name: check for check in section.checks}


@given(st.lists(some_answers, min_size=1, max_size=12))
def test_the_parent_itself_passes_with_zeros(answers: list[Answer]) -> None:
    cases = [user_case(str(number), "Why?") for number in range(len(answers))]
    section = generation_section(answered_cases(cases, answers, answers))
    assert {check.verdict for check in section.checks} == {Verdict.PASS}
    assert all(each["new"] == each["gone"] == 0 for each in section.facts["defects"].values())


@given(st.lists(st.tuples(some_answers, some_answers), min_size=1, max_size=12))
def test_swapped_models_swap_what_is_new(pairs: list[tuple[Answer, Answer]]) -> None:
    cases = [user_case(str(number), "Why?") for number in range(len(pairs))]
    one, other = [first for first, _ in pairs], [second for _, second in pairs]
    there = generation_section(answered_cases(cases, one, other)).facts["defects"]
    back = generation_section(answered_cases(cases, other, one)).facts["defects"]
    for kind in map(str, Defect):
        assert (there[kind]["new"], there[kind]["gone"]) == (back[kind]["gone"], back[kind]["new"])


def test_what_the_parent_does_too_is_no_failure() -> None:
    for bad in (EMPTY, LEAK, LOOP, CUT):
        found = checks([bad] * 8, [bad] * 8)
        assert {check.verdict for check in found.values()} == {Verdict.PASS}


def test_the_first_new_empty_or_leaking_answer_fails() -> None:
    for bad, name in ((EMPTY, "empty answers"), (LEAK, "template broken")):
        found = checks([GOOD] * 8, [GOOD] * 7 + [bad])
        assert found.pop(name).verdict is Verdict.FAIL
        assert {check.verdict for check in found.values()} == {Verdict.PASS}


def test_as_many_gone_as_new_is_no_failure() -> None:
    found = checks([EMPTY, *[GOOD] * 7], [GOOD] * 7 + [EMPTY])
    assert found["empty answers"].verdict is Verdict.PASS
    assert found["empty answers"].reason == "1 new, and 1 of the parent's gone"


def test_repetition_takes_more_than_chance() -> None:
    verdicts = [checks([GOOD] * 8, [LOOP] * bad + [GOOD] * (8 - bad))["repetition"].verdict for bad in range(9)]
    assert verdicts == [Verdict.PASS] * 2 + [Verdict.CANNOT_TELL] * 3 + [Verdict.FAIL] * 4
    assert checks([GOOD] * 8, [LOOP] * 2 + [GOOD] * 6, tolerance=0.25)["repetition"].verdict is Verdict.PASS


def test_turns_that_do_not_end() -> None:
    assert checks([GOOD] * 8, [CUT] * 8)["turn not ended"].verdict is Verdict.FAIL
    unknown = Answer("Because it is warm.")
    assert checks([GOOD] * 8, [unknown] * 8)["turn not ended"].verdict is Verdict.PASS


def test_how_much_could_have_gone_unseen_is_said() -> None:
    reason = checks([GOOD] * 8, [GOOD] * 8)["repetition"].reason
    assert reason == "none is new; up to 32% of all prompts could have one unseen"


def test_answers_that_did_not_come() -> None:
    found = checks([GOOD] * 3, [GOOD, ERROR, GOOD])
    assert found["answers"].verdict is Verdict.CANNOT_TELL
    assert found["answers"].reason == "1 did not come; 1, of the child: did not answer within 60 s"
    assert found["repetition"].found.startswith("0 of 2")
    assert "of the parent" in checks([ERROR], [GOOD])["answers"].reason
    assert {check.verdict for check in checks([GOOD], [ERROR]).values()} == {Verdict.CANNOT_TELL}


def test_facts_hold_both_answers_and_no_times() -> None:
    cases = [user_case("a", "Why?")]
    parent = Answer("So.", ended=True, tokens=2, seconds=3.0)
    facts = generation_section(answered_cases(cases, [parent], [LOOP])).facts
    [case] = facts["cases"]
    assert case["parent"] == {
        "text": "So.", "error": "", "ended": True, "tokens": 2, "special": [], "defects": []
    }  # fmt: skip
    assert case["child"]["defects"] == ["repetition"]
    assert "seconds" not in str(facts)
