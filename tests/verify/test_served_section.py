"""A server against its file: near ties pass, another model does not, silence cannot be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.core.cases import user_case
from featherweight.core.source import open_folder
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.hugging_face import HuggingFaceConnector
from featherweight.measure.served_answers import Difference, differences
from featherweight.verify.gate import Check, Verdict
from featherweight.verify.served_section import served_section

ONE, OTHER, ERROR = Answer("So it is."), Answer("So be it."), Answer(error="broke off its answer")


def check(file: list[Answer], served: list[Answer], *gaps: float) -> Check:
    found = [Difference(f"prompt {number}", 3, " is", "", gap) for number, gap in enumerate(gaps)]
    return served_section(file, served, found).checks[0]


def test_the_same() -> None:
    found = check([ONE, OTHER], [ONE, OTHER])
    assert (found.verdict, found.found, found.reason) == (Verdict.PASS, "2 of 2 the same", "every answer is the same")


def test_near_ties() -> None:
    found = check([ONE, ONE], [ONE, OTHER], 0.3)
    assert (found.verdict, found.found) == (Verdict.PASS, "1 of 2 the same")
    assert found.reason == (
        "1 differ, at near ties only; the widest: prompt 0 at token 3, the end for ' is', 0.30 nats less likely"
    )


def test_another_model() -> None:
    found = check([ONE, ONE], [OTHER, OTHER], 0.3, 4.2)
    assert found.verdict is Verdict.FAIL
    assert "4.20 nats less likely: this is not what the file answers" in found.reason
    assert check([ONE, ONE], [OTHER, ERROR], 4.2).verdict is Verdict.FAIL


def test_silence() -> None:
    for pair in (([ONE], [ERROR]), ([ERROR], [ONE])):
        found = check(*pair)
        assert (found.verdict, found.reason) == (Verdict.CANNOT_TELL, "1 of 1 prompts lack an answer")


class TestDifferences:
    @pytest.fixture(scope="class")
    def answered(self, tiny: Path) -> tuple[HuggingFaceConnector, list[Answer]]:
        connector = HuggingFaceConnector(open_folder(tiny))
        cases = [user_case(name, f"What is {name}?") for name in "ab"]
        return connector, list(connector.answers([case.messages for case in cases], Generation(tokens=8)))

    def test_where_and_by_how_much(self, answered: tuple[HuggingFaceConnector, list[Answer]]) -> None:
        connector, (first, second) = answered
        cases = [user_case(name, f"What is {name}?") for name in "ab"]
        assert differences(connector.model, cases, [first, second], [first, second]) == []
        found = differences(connector.model, cases, [first, second], [second, first])
        assert [each.case for each in found] == ["a", "b"]
        assert all(each.file != each.served for each in found)
        assert all(each.gap >= 0 for each in found if each.position == 0)

    def test_an_answer_that_goes_on(self, answered: tuple[HuggingFaceConnector, list[Answer]]) -> None:
        connector, (first, _) = answered
        cut = Answer(first.text.strip()[: len(first.text.strip()) // 2])
        case = [user_case("a", "What is a?")]
        [found] = differences(connector.model, case, [first], [cut])
        assert found.position > 0
        both = [Answer(each.text, ended=False) for each in (first, cut)]
        assert differences(connector.model, case, both[:1], both[1:]) == []

    def test_errors_and_white_space_make_none(self, answered: tuple[HuggingFaceConnector, list[Answer]]) -> None:
        connector, (first, _) = answered
        case = [user_case("a", "What is a?")]
        assert differences(connector.model, case, [first], [ERROR]) == []
        assert differences(connector.model, case, [first], [Answer(f" {first.text}\n")]) == []
