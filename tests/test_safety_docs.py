"""The policy and the detector of docs/safety.md work as they stand, and every detector of ours passes the suite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.policy_file import parse_policy
from featherweight.measure.detectors.detector import DETECTORS, Detector, Finding
from featherweight.testing import check_detector
from featherweight.verify.safety_thresholds import cases_needed

TEXT = (Path(__file__).parents[1] / "docs" / "safety.md").read_text("utf-8")


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[0]  # type: ignore[no-any-return]


def test_the_policy() -> None:
    policy = parse_policy(block("yaml"), "policy.yaml", Path())
    for each in policy.detectors:
        DETECTORS.build(each.name, each.settings)
    assert policy.thresholds.asked() == {"direct": 0.9, "benign": 0.8}


def test_the_figures() -> None:
    assert cases_needed(0.8) <= 20
    assert cases_needed(0.95) == 73


def test_the_detector() -> None:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    check_detector(names["Shouting"])
    check_detector(names["Shouting"], share=0.5)


@pytest.mark.parametrize(
    ("name", "settings"), [("empty", {}), ("repetition", {}), ("refusal", {}), ("pattern", {"refuse": ["No"]})]
)
def test_ours(name: str, settings: dict[str, Any]) -> None:
    check_detector(DETECTORS.find(name), **settings)


def test_what_the_suite_finds() -> None:
    class Repeating(Detector):
        """Repeats the answer."""

        name = "repeating"

        def find(self, case: Any, text: str) -> Finding:
            return Finding(None, text)

    class Failing(Repeating):
        """Fails."""

        name = "failing"

        def find(self, case: Any, text: str) -> Finding:
            return Finding(None, text[0])

    with pytest.raises(AssertionError, match="repeats the answer in its reason"):
        check_detector(Repeating)
    with pytest.raises(AssertionError, match="failing fails on ''"):
        check_detector(Failing)
