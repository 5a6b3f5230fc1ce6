"""What is wrong with the form of an answer, whatever it says: empty, repeating itself, broken template, no end of turn.

Only texts are looked at, so an answer of a server is judged like one of a file. White space counts as one blank. Two
kinds of repetition: a stretch of at least 60 characters that is one unit of at most 200 three times over or more, found
by comparing the text with itself shifted by the unit's length; and fewer than half as many different word 4-grams as
there are, in 40 words or more (a loop that changes one word a turn).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

from featherweight.core.lazy import np
from featherweight.measure.answers import Answer

_UNIT, _TIMES, _STRETCH = 200, 3, 60  # characters, repetitions, characters
_GRAM, _WORDS, _DIFFERENT = 4, 40, 0.5
_BLANK = re.compile(r"\s+")
# What chat templates put around turns, whoever trained the model; a template of another family leaks these as text.
MARKERS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|user|>",
    "<|assistant|>", "<|system|>", "<|end|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>",
    "### Instruction:", "### Response:",
)  # fmt: skip
# A turn of somebody else's, as templates put it: a role alone on its line, or with a colon.
_ROLE = re.compile(r"(?:^|\n)[ \t]*(?:(?:user|assistant|system|model)[ \t]*\n|(?:User|Human|Assistant|System):)")


class Defect(enum.StrEnum):
    """A way in which an answer is none."""

    EMPTY = "empty"
    REPETITION = "repetition"
    TEMPLATE = "template"
    UNENDED = "unended"


def defects(answer: Answer, special: Iterable[str] = ()) -> frozenset[Defect]:
    """What is wrong with an answer that came; one that did not come has an error instead.

    Args:
        answer: without an error.
        special: texts of the special tokens of the models.
    """
    found = set()
    if not any(letter.isalnum() for letter in answer.text):
        found.add(Defect.EMPTY)
    if repeats(answer.text):
        found.add(Defect.REPETITION)
    if answer.special or leaks(answer.text, special):
        found.add(Defect.TEMPLATE)
    if answer.ended is False:
        found.add(Defect.UNENDED)
    return frozenset(found)


def leaks(text: str, special: Iterable[str] = ()) -> bool:
    """Whether marks of a chat template stand in a text: special tokens, or a turn of somebody else's."""
    marks = (*MARKERS, *(each for each in special if len(each) > 2))  # shorter ones may be words
    return any(mark in text for mark in marks) or bool(_ROLE.search(text))


def repeats(text: str) -> bool:
    """Whether a text goes round in circles."""
    return loop_length(text) >= _STRETCH or _few_grams(text)


def loop_length(text: str) -> int:
    """Characters of the longest stretch that is one unit three times over or more; 0 = none."""
    codes = np.array([ord(each) for each in _BLANK.sub(" ", text.strip())], dtype=np.int32)
    longest = 0
    for unit in range(1, min(_UNIT, len(codes) // _TIMES) + 1):
        run = _longest_run(codes[unit:] == codes[:-unit])
        if run >= (_TIMES - 1) * unit:
            longest = max(longest, run + unit)
    return longest


def _longest_run(same: np.ndarray) -> int:
    """Most values in a row that are true."""
    breaks = np.flatnonzero(np.concatenate([[True], ~same, [True]]))
    return int(np.diff(breaks).max()) - 1


def _few_grams(text: str) -> bool:
    words = text.lower().split()
    grams = [tuple(words[first : first + _GRAM]) for first in range(len(words) - _GRAM + 1)]
    return len(words) >= _WORDS and len(set(grams)) < _DIFFERENT * len(grams)
