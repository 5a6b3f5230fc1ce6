"""What a model answers to a list of conversations, and whoever can ask it: the contract of connectors.

A connector gives exactly one answer for each conversation, in their order, whatever happens: what goes wrong is in the
answer's `error`, and no case is dropped. It decides nothing about what an answer means. `ask` holds any connector to
that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from featherweight.core.cases import Message


@dataclass(frozen=True)
class Generation:
    """How answers are drawn; the same for every model that is compared.

    Attributes:
        tokens: at most so many an answer.
        temperature: 0 = the likeliest token each time.
        top_p: only the likeliest tokens that together reach this probability.
        seed: of the draws.
        batch: conversations that go through the model together, where the connector can; it can change answers.
    """

    tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch: int = 8

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: what the model wrote, special tokens left out; empty where there is an error.
        error: what went wrong; empty = nothing.
        ended: whether the model ended its turn itself; None where the connector cannot know.
        tokens: how many were drawn, the end of turn included; None where the connector cannot know.
        seconds: until the answer was there; a batch shares its time.
        special: special tokens that it wrote, the one that ended its turn left out; empty where nobody can know.
    """

    text: str = ""
    error: str = ""
    ended: bool | None = None
    tokens: int | None = None
    seconds: float = 0.0
    special: tuple[str, ...] = ()


class Connector(Protocol):
    """Somebody who can be asked."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What identifies the model and how it runs: fingerprint or address, backend, versions. Plain JSON, hashed."""

    def answers(self, conversations: Sequence[Sequence[Message]], generation: Generation) -> Iterator[Answer]:
        """One answer a conversation, in their order, each as soon as it is there; never raises for a single one."""


def ask(connector: Connector, conversations: Sequence[Sequence[Message]], generation: Generation) -> Iterator[Answer]:
    """One answer a conversation, whatever the connector does: what it leaves out or breaks off is an error.

    It gets copies, so that nothing that it does to them reaches a later run.
    """
    given = iter(connector.answers([[dict(turn) for turn in each] for each in conversations], generation))
    problem = "the connector gave no answer"
    for _ in conversations:
        try:
            yield next(given)
        except StopIteration:
            given = iter(())
            yield Answer(error=problem)
        except Exception as error:  # it should not, but a case is never dropped
            given, problem = iter(()), f"the connector broke off: {error or type(error).__name__}"
            yield Answer(error=problem)
