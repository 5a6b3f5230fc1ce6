"""What people said of single answers: kept by the digests of prompt and answer, so that nobody is asked twice.

A file of lines {"prompt": SHA-256, "answer": SHA-256, "label": ..., "by": ...}; a later line takes the place of an
earlier one. It holds no text and can be shared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError, nearest
from featherweight.core.labels import Label, Role
from featherweight.core.user_file import numbered_lines, read_text
from featherweight.core.whole import whole_file
from featherweight.verify.safety_pairs import Answers, LabelledAnswer

Key = tuple[str, str]
"""Digests of a prompt and of an answer to it."""


@dataclass
class Adjudications:
    """Labels that people gave.

    Attributes:
        path: where they are kept.
        labels: by prompt and answer.
        by: who gave each.
    """

    path: Path
    labels: dict[Key, Label] = field(default_factory=dict)
    by: dict[Key, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Adjudications:
        """What a file holds; nothing, where there is none yet.

        Raises:
            DataError: a line is no adjudication.
        """
        found = cls(path)
        if path.is_file():
            for number, line in numbered_lines(read_text(path, str(path), "give a file of adjudications")):
                found._take(line, f"{path} line {number}")
        return found

    def _take(self, line: str, where: str) -> None:
        try:
            record = json.loads(line)
            key = (str(record["prompt"]), str(record["answer"]))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(where, "is no adjudication", "remove the line, or restore the file") from None
        self.labels[key] = label_of(record.get("label"), where)
        self.by[key] = str(record.get("by", ""))

    def label(self, answer: LabelledAnswer) -> Label | None:
        """What people said of an answer; None = nobody has."""
        return self.labels.get(key_of(answer))

    def set(self, key: Key, label: Label, by: str = "") -> None:
        """Remembers a label; `save` keeps it."""
        self.labels[key], self.by[key] = label, by

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        lines = [
            json.dumps({"prompt": prompt, "answer": answer, "label": label, "by": self.by[prompt, answer]})
            for (prompt, answer), label in self.labels.items()
        ]
        with whole_file(self.path) as draft:
            draft.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def applied(self, answers: Answers) -> dict[Role, list[LabelledAnswer]]:
        """The answers with the labels that people gave, where they gave one."""
        return {role: [each.relabelled(self.label(each)) for each in own] for role, own in answers.items()}


def key_of(answer: LabelledAnswer) -> Key:
    """By what an adjudication is found again."""
    return answer.digest, answer.answer


def label_of(value: Any, where: str) -> Label:
    """A label as a person wrote it.

    Raises:
        DataError: it is none.
    """
    if isinstance(value, str) and value in list(Label):
        return Label(value)
    known = [label.value for label in Label]
    hint = nearest(str(value), known) or f"write one of {', '.join(known)}"
    raise DataError(where, f"has the label {value!r}, which is none", hint)
