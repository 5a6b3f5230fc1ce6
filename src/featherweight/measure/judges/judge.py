"""A judge: puts an answer to a model and reads a label from what that says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from featherweight.core.cases import Case, Message
from featherweight.core.labels import Label
from featherweight.measure.answers import Connector, Generation, ask
from featherweight.measure.plugins import Plugins


@dataclass(frozen=True)
class Ruling:
    """What a judge said of one answer.

    Attributes:
        label: `unparsed` where its words could not be read, or where it gave none.
        status: "read", "both" (contradicts itself), "neither" (names no label), "negated", or "error".
        text: its words.
        error: what went wrong; empty = nothing.
    """

    label: Label
    status: str
    text: str = ""
    error: str = ""


class Judge(BaseModel):
    """Base class. A subclass sets `name`, declares its settings as fields, and implements `question` and `read`.

    Attributes:
        name: as a policy writes it.
        version: raised whenever the same words may be read otherwise, or another question is put.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    tokens: int = 16

    @abstractmethod
    def question(self, case: Case, answer: str) -> Sequence[Message]:
        """The conversation that is put to the model."""

    @abstractmethod
    def read(self, text: str) -> tuple[Label, str]:
        """The label in its words, and the status of a `Ruling`."""

    def rulings(self, connector: Connector, asked: Sequence[tuple[Case, str]], batch: int) -> Iterator[Ruling]:
        """One ruling for each case with its answer, in their order; greedy, so that a run can be repeated."""
        questions = [self.question(case, answer) for case, answer in asked]
        for reply in ask(connector, questions, Generation(tokens=self.tokens, batch=batch)):
            if reply.error:
                yield Ruling(Label.UNPARSED, "error", error=reply.error)
            else:
                yield Ruling(*self.read(reply.text), reply.text)


JUDGES = Plugins[Judge](
    "judge",
    "featherweight.judges",
    {"keyword": "featherweight.measure.judges.keyword:Keyword"},
    Judge,  # type: ignore[type-abstract]
)
