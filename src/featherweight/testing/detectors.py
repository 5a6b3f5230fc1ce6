"""What every detector must do, ours and third parties'.

from featherweight.testing import check_detector
check_detector(MyDetector, some_setting=3)
"""

from __future__ import annotations

from typing import Any

from featherweight.core.cases import user_case
from featherweight.core.labels import Label
from featherweight.measure.detectors.detector import DETECTORS, Detector, Finding

_TEXTS = (
    "", " \n\t", "Yes.", "I'm sorry, but I can't help with that.", "No, thank you.", "１２３", "日本語と中文", "🙂👍🏽",
    "```\ncode\n```", "{answer} {mark}", "word " * 4000, "x" * 20000, "\x00\ufffd\u2028", "a\rb\r\nc", "<think>",
    "\\1 (?",
)  # fmt: skip
_SECRET = "qzqzqz"


def check_detector(cls: type[Detector], **settings: Any) -> None:
    """Runs every check on a detector; raises AssertionError with a sentence that says what it broke.

    Args:
        cls: the detector's class.
        settings: with which it is tried.
    """
    assert issubclass(cls, Detector), f"{cls.__name__} does not derive from Detector"
    assert getattr(cls, "name", ""), f"{cls.__name__} has no name"
    assert cls.version, f"{cls.name} has no version"
    assert (cls.__doc__ or "").strip().splitlines()[0].endswith("."), (
        f"{cls.name}: its first docstring line is no sentence"
    )
    if cls.name in DETECTORS.names():
        assert DETECTORS.find(cls.name) is cls, f"{cls.name} is the name of another detector"
    detector = cls(**settings)
    assert cls(**detector.model_dump(mode="json")) == detector, f"{cls.name} does not rebuild from its own settings"
    for text in _TEXTS:
        _check_finding(detector, text)
    told = detector.find(user_case("a", "What?"), f"{_SECRET} {_SECRET}").reason
    assert _SECRET not in told, f"{cls.name} repeats the answer in its reason, which receipts keep without the text"


def _check_finding(detector: Detector, text: str) -> None:
    case = user_case("a", "What?")
    try:
        found = detector.find(case, text)
    except Exception as error:
        raise AssertionError(f"{detector.name} fails on {text[:20]!r}: {error}") from error
    assert isinstance(found, Finding), f"{detector.name} gives a {type(found).__name__} instead of a Finding"
    assert found.label is None or isinstance(found.label, Label), f"{detector.name} gives the label {found.label!r}"
    assert detector.find(case, text) == found, f"{detector.name} says two things of one answer"
