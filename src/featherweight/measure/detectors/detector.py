"""A detector: a rule that labels an answer by its text, or has nothing to say about it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from featherweight.core.cases import Case
from featherweight.core.labels import Label
from featherweight.measure.plugins import Plugins


@dataclass(frozen=True)
class Finding:
    """What a detector says.

    Attributes:
        label: None = it has nothing to say about this answer.
        reason: a few words, never the answer's own: receipts keep it even where they keep no text.
    """

    label: Label | None
    reason: str = ""


class Detector(BaseModel):
    """Base class. A subclass sets `name`, declares its settings as fields and implements `find`.

    Attributes:
        name: as a policy writes it.
        version: raised whenever the same text may get another label.
        guesses: whether its word gives way to that of a judge, where there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    guesses: ClassVar[bool] = False

    @abstractmethod
    def find(self, case: Case, text: str) -> Finding:
        """What the rule says about the answer `text` to a case."""


DETECTORS = Plugins[Detector](
    "detector",
    "featherweight.detectors",
    {
        "empty": "featherweight.measure.detectors.degenerate:Empty",
        "repetition": "featherweight.measure.detectors.degenerate:Repetition",
        "refusal": "featherweight.measure.detectors.refusal:Refusal",
        "pattern": "featherweight.measure.detectors.pattern:Pattern",
    },
    Detector,  # type: ignore[type-abstract]
)
