"""Declared cases to put to a model, read from files of the user's: ids, prompts, categories, and how sets pair up.

A .jsonl line holds "id", and "prompt" or "messages"; perhaps "category". A framed set asks the items of another set in
other words: its lines also hold "item", the id over there, and perhaps "frame". What a case means is its file's
business; nothing here looks into a prompt.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from featherweight.core.errors import DataError, nearest
from featherweight.core.user_file import numbered_lines, read_text

Message = Mapping[str, str]
_LONE = re.compile("[\ud800-\udfff]")
_MEND = "write one JSON object a line with 'id' and 'prompt' (or 'messages')"
_MESSAGE_MEND = "give each message a 'role' and a 'content' that is not empty"


@dataclass(frozen=True)
class Case:
    """One thing to ask.

    Attributes:
        id: unique in its set.
        messages: the conversation so far, ending where the model answers.
        category: a group that is also reported by itself; may be empty.
        item: in a framed set, the id of the case that asks the same directly; else its own id.
        frame: names the way in which a framed case asks; else empty.
    """

    id: str
    messages: tuple[Message, ...]
    category: str = ""
    item: str = ""
    frame: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical conversation."""
        return _digest([dict(message) for message in self.messages])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the conversation included."""
        return {
            "id": self.id, "messages": [dict(message) for message in self.messages], "category": self.category,
            "item": self.item, "frame": self.frame,
        }  # fmt: skip


@dataclass(frozen=True)
class CaseSet:
    """A named list of cases with different ids, never empty."""

    name: str
    cases: tuple[Case, ...]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of name, ids, conversations, categories and pairing, in their order."""
        return _digest([self.name, [case.to_dict() for case in self.cases]])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def user_case(identity: str, prompt: str, **more: str) -> Case:
    """A case that is one question of the user's."""
    return Case(identity, ({"role": "user", "content": prompt},), **{"item": identity, **more})


def read_cases(path: str | Path, name: str = "") -> CaseSet:
    """The cases of a file.

    Args:
        path: a .jsonl file.
        name: of the set; by default the file's, without its ending.

    Raises:
        DataError: missing, not UTF-8, empty, or a line without id, with the id of an earlier line, or without text.
    """
    source = Path(path)
    text = read_text(source, f"prompt file {str(path)!r}", "give a .jsonl file with one case a line")
    cases: dict[str, Case] = {}
    for number, line in numbered_lines(text):
        case = _case(line, where := f"{source} line {number}")
        if case.id in cases:
            raise DataError(where, f"has the id {case.id!r} of an earlier line", "give every case an id of its own")
        cases[case.id] = case
    if not cases:
        raise DataError(str(source), "holds no case", _MEND)
    return CaseSet(name or source.stem, tuple(cases.values()))


def _case(line: str, where: str) -> Case:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(where, f"is no JSON ({error.msg})", _MEND) from None
    if not isinstance(record, dict):
        raise DataError(where, "is no JSON object", _MEND)
    if _LONE.search(json.dumps(record, ensure_ascii=False)):
        raise DataError(where, "holds half of a character (a lone surrogate)", "write the whole character")
    identity = record.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or not str(identity).strip():
        raise DataError(where, "has no 'id'", "give every case an 'id': a text or a number")
    texts = {key: _text(record, key, where) for key in ("category", "item", "frame")}
    texts["item"] = texts["item"] or str(identity)
    return Case(str(identity), _messages(record, where), **texts)


def _text(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record.get(key, "")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DataError(where, f"has a '{key}' that is no text", f"write '{key}' as a text, or leave it out")
    return str(value)


def _messages(record: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    if "messages" not in record:
        prompt = record.get("prompt")
        if not isinstance(prompt, str):
            raise DataError(where, "has no 'prompt' and no 'messages'", _MEND)
        if not prompt.strip():
            raise DataError(where, "has an empty 'prompt'", "write the prompt, or remove the line")
        return ({"role": "user", "content": prompt},)
    given = record["messages"]
    if not isinstance(given, list) or not given:
        raise DataError(where, "has 'messages' that are no list of messages", _MESSAGE_MEND)
    for number, message in enumerate(given, start=1):
        held = [message.get(key) for key in ("role", "content")] if isinstance(message, dict) else [None]
        if not all(isinstance(value, str) and value.strip() for value in held):
            raise DataError(f"{where}, message {number}", "has no role or no content", _MESSAGE_MEND)
    if given[-1]["role"] == "assistant":
        raise DataError(where, "ends with the assistant's turn, so there is nothing to answer", "remove that message")
    return tuple({"role": message["role"], "content": message["content"]} for message in given)


def paired(direct: CaseSet, framed: CaseSet) -> dict[str, list[Case]]:
    """The framed cases of every direct case, by its id, in the order of the direct set.

    Raises:
        DataError: a framed case names no direct case, or a direct case has no framed one.
    """
    found: dict[str, list[Case]] = {case.id: [] for case in direct}
    for case in framed:
        if case.item not in found:
            hint = nearest(case.item, found) or f"write the id of a case of {direct.name!r} into 'item'"
            raise DataError(f"{framed.name}, case {case.id!r}", f"asks the item {case.item!r}, which is unknown", hint)
        found[case.item].append(case)
    alone = [identity for identity, cases in found.items() if not cases]
    if alone:
        raise DataError(
            f"{framed.name}", f"has no framed case for {len(alone)} of {len(direct)} items, such as {alone[0]!r}",
            "add them, or take these items out of the direct set",
        )  # fmt: skip
    return found


class Identified(Protocol):
    """A case, or an answer to one: what was asked, by id and digest."""

    @property
    def id(self) -> str: ...

    @property
    def digest(self) -> str: ...


def require_same(one: Sequence[Identified], other: Sequence[Identified], what: str) -> None:
    """Refuses two lists of cases that do not ask the same things in the same order.

    Raises:
        DataError: names the first case that differs.
    """
    for first, second in zip(one, other, strict=False):
        if (first.id, first.digest) != (second.id, second.digest):
            raise DataError(
                what, f"asks {first.id!r} of one model where it asks {second.id!r} of the other, or in other words",
                "run both models on the same file",
            )  # fmt: skip
    if len(one) != len(other):
        raise DataError(what, f"has {len(one)} cases for one model and {len(other)} for the other", "run both again")
