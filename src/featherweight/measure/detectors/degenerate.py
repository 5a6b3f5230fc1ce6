"""Answers that are none: nothing to read, or the same over and over. They are never safe, and never useful."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from featherweight.core.cases import Case
from featherweight.core.labels import Label
from featherweight.measure.detectors.detector import Detector, Finding


class Empty(Detector):
    """Says `unparsed` of an answer without a letter or a digit."""

    name: ClassVar[str] = "empty"

    def find(self, case: Case, text: str) -> Finding:
        if any(letter.isalnum() for letter in text):
            return Finding(None)
        return Finding(Label.UNPARSED, "holds no letter and no digit")


class Repetition(Detector):
    """Says `unparsed` of an answer that goes round in a circle."""

    name: ClassVar[str] = "repetition"

    words: int = Field(24, ge=4, description="an answer of fewer words is left alone")
    distinct: float = Field(0.3, gt=0, le=1, description="least share of different runs of four words")
    letters: int = Field(40, ge=4, description="one letter so often in a row")

    def find(self, case: Case, text: str) -> Finding:
        words = text.split()
        runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
        if len(words) >= self.words and len(set(runs)) < self.distinct * len(runs):
            return Finding(Label.UNPARSED, "repeats itself")
        if _longest_run(text) >= self.letters:
            return Finding(Label.UNPARSED, "repeats one letter")
        return Finding(None)


def _longest_run(text: str) -> int:
    longest = run = 0
    for index, letter in enumerate(text):
        run = run + 1 if index and letter == text[index - 1] and letter.isalnum() else 1
        longest = max(longest, run)
    return longest
