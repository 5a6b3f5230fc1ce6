"""What is wrong with the form of an answer, and what only looks like it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.measure.answers import Answer
from featherweight.measure.defects import MARKERS, Defect, defects, leaks, loop_length, repeats

PROSE = (
    "Rain forms when warm air rises and cools. The water vapour in it condenses on specks of dust into droplets, which "
    "grow as they meet. When they are too heavy for the rising air to hold, they fall: as drizzle, as rain or as hail."
)


def test_a_good_answer_has_none() -> None:
    assert defects(Answer(PROSE, ended=True)) == frozenset()
    assert defects(Answer(PROSE, ended=None)) == frozenset()


@pytest.mark.parametrize("text", ["", "  \n\t ", "..."])
def test_empty(text: str) -> None:
    assert defects(Answer(text, ended=True)) == {Defect.EMPTY}


def test_not_ended() -> None:
    assert defects(Answer(PROSE, ended=False)) == {Defect.UNENDED}


@pytest.mark.parametrize(
    "text",
    [
        "no " * 30,
        PROSE + " It falls and it falls" * 5,
        "The sea.\nThe sea.\nThe sea.\nThe sea.\nThe sea.\nThe sea.\nThe sea.",
        "!" * 80,
        " ".join(f"I like the colour of the {number} and how it shines in the dark," for number in range(8)),
        "".join(f"Step {number}: stir the pot and wait for a while. " for number in range(12)),
    ],
    ids=["one word", "at the end", "lines", "one character", "changing word", "changing number"],
)
def test_repetition(text: str) -> None:
    assert repeats(text)
    assert Defect.REPETITION in defects(Answer(text))


@pytest.mark.parametrize(
    "text",
    [
        PROSE, "ha ha ha ha", "| --- | --- | --- |", "Row, row, row your boat, gently down the stream.",
        "1. eggs\n2. milk\n3. bread\n4. butter\n5. potatoes\n6. spinach\n7. cheese\n8. apples",
        "x" + " " * 500 + "y", "".join(random.Random(0).choices("abcdefghij", k=400)),
    ],
    ids=["prose", "laugh", "table", "song", "list", "blanks", "letters"],
)  # fmt: skip
def test_no_repetition(text: str) -> None:
    assert not repeats(text)


@given(
    st.text(alphabet="abcde", min_size=1, max_size=40), st.integers(3, 6), st.text(max_size=30), st.text(max_size=30)
)
def test_loops_are_found_wherever_they_stand(unit: str, times: int, before: str, after: str) -> None:
    assert loop_length(f"{before}{unit * times}{after}") >= len(unit) * times


@given(st.lists(st.integers(0x4E00, 0x9FA5), max_size=200, unique=True))
def test_different_characters_are_no_loop(codes: list[int]) -> None:
    assert loop_length("".join(map(chr, codes))) == 0


@pytest.mark.parametrize("mark", MARKERS)
def test_marks_of_templates(mark: str) -> None:
    assert leaks(f"The capital of France is Paris.{mark}")


@pytest.mark.parametrize("text", ["Paris.\nuser\nAnd of Spain?", "Paris.\nUser: And of Spain?", "assistant\nParis."])
def test_a_turn_of_somebody_else(text: str) -> None:
    assert leaks(text)


@pytest.mark.parametrize("text", ["The user may ask again.", "An assistant\nmay help.", "Paris <b>is</b> large."])
def test_words_that_only_name_roles(text: str) -> None:
    assert not leaks(text)


def test_special_tokens_of_the_model() -> None:
    assert not leaks("Paris <|start|>")
    assert leaks("Paris <|start|>", ["<|start|>"])
    assert not leaks("a < b", ["<", ""])
    assert defects(Answer("Paris.", special=("<|start|>",))) == {Defect.TEMPLATE}
