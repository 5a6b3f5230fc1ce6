"""Somebody who answers by a script: a connector whose every answer, and every failure, a test decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.cases import CaseSet, user_case
from featherweight.core.labels import Role
from featherweight.measure.answers import Answer, Generation
from featherweight.measure.connectors.seeds import seed_of
from featherweight.measure.detectors.pattern import Pattern
from featherweight.measure.detectors.refusal import Refusal
from featherweight.measure.labelling import Labeller
from featherweight.measure.safety import SafetyRun

REFUSAL = "I'm sorry, but I can't help with that."
SERVED = "It is a town by the sea."

Say = Callable[[Sequence[Any], Generation], str | Answer]


class Scripted:
    """Answers what `say` gives for a conversation; an exception of it goes out as it is.

    Args:
        say: the script.
        facts: who it is.
    """

    def __init__(self, say: Say, facts: Mapping[str, Any] | None = None) -> None:
        self.say, self.asked = say, list[Sequence[Any]]()
        self.facts = facts or {"backend": "script", "fingerprint": "f" * 64}

    def answers(self, conversations: Sequence[Sequence[Any]], generation: Generation) -> Iterator[Answer]:
        for conversation in conversations:
            self.asked.append(conversation)
            said = self.say(conversation, generation)
            yield said if isinstance(said, Answer) else Answer(said, ended=True, tokens=3)


class Neighbourly:
    """Answers that depend on the seed and on everything in the batch, as sampled ones do."""

    facts: Mapping[str, Any] = {"backend": "script", "fingerprint": "e" * 64}

    def answers(self, conversations: Sequence[Sequence[Any]], generation: Generation) -> Iterator[Answer]:
        for first in range(0, len(conversations), generation.batch):
            batch = conversations[first : first + generation.batch]
            for place, _ in enumerate(batch):
                yield Answer(f"{seed_of(generation.seed, batch)}/{place}")


def asked_of(count: int, name: str = "direct") -> CaseSet:
    """A set of harmless questions."""
    return CaseSet(name, tuple(user_case(f"{name}-{index}", f"What of topic {index}?") for index in range(count)))


def run_of(connector: Any, sets: Mapping[Role, CaseSet] | None = None, **more: Any) -> SafetyRun:
    """A run with the refusal detector, on ten direct cases unless other sets are given."""
    labeller = more.pop("labeller", None) or Labeller((Refusal(),))
    return SafetyRun(sets or {Role.DIRECT: asked_of(10)}, connector, labeller, **more)


def canary() -> Pattern:
    """A detector of exact strings."""
    return Pattern(refuse=(REFUSAL,), comply=(SERVED,), exact=True)


def question(conversation: Sequence[Any]) -> str:
    """What a user asked last."""
    return str(conversation[-1]["content"])


def write_cases(path: Path, count: int, text: str = "What of topic {}?", **more: str) -> Path:
    """A file of cases."""
    lines = [{"id": f"{path.stem}-{index}", "prompt": text.format(index), **more} for index in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
