"""Inputs with labels: texts from a .jsonl file, or tensors of images; split by class so that no input is in two parts.

A line of the file is {"text": ..., "label": ...}. The parts are drawn by the hash of the input and the seed, the same
share of every class in each: the head is trained on one, layers are chosen on another, accuracy is told on the third.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.shares import divided
from featherweight.core.user_file import numbered_lines, read_text

SHARES = {"training": 0.6, "validation": 0.2, "test": 0.2}
_LEAST = 5  # of a class: fewer cannot be in every part


@dataclass(frozen=True)
class Labelled:
    """Inputs with the name of the class of each.

    Attributes:
        inputs: texts, or a tensor of images [rows, ...].
        labels: names of classes, one an input.
        source: what a person would call them, for errors.
        classes: all names, ascending; a part of the data keeps those of the whole.
    """

    inputs: Sequence[str] | torch.Tensor
    labels: tuple[str, ...]
    source: str = "the labelled data"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise DataError(
                self.source, f"has {len(self.inputs)} inputs and {len(self.labels)} labels", "give one label an input"
            )
        object.__setattr__(self, "classes", self.classes or tuple(sorted(set(self.labels))))

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def targets(self) -> torch.Tensor:
        """Index of each input's class, int64 [rows]."""
        return torch.tensor([self.classes.index(label) for label in self.labels])

    @property
    def texts(self) -> list[str]:
        """The inputs, which are texts."""
        return [str(each) for each in self.inputs]

    def take(self, rows: Sequence[int]) -> Labelled:
        """Some of the rows, in the given order."""
        inputs: Any = self.inputs
        some = inputs[list(rows)] if isinstance(inputs, torch.Tensor) else [inputs[row] for row in rows]
        return Labelled(some, tuple(self.labels[row] for row in rows), self.source, self.classes)

    def parts(self, seed: int = 0) -> dict[str, list[int]]:
        """Rows of the training, validation and test parts; of inputs that are equal only the first counts.

        Raises:
            DataError: there are fewer than two classes, or a class has too few inputs.
        """
        by_class: dict[str, dict[str, int]] = {name: {} for name in self.classes}
        for row, label in enumerate(self.labels):
            by_class[label].setdefault(self._digest(row), row)
        self._check(by_class)
        parts: dict[str, list[int]] = {name: [] for name in SHARES}
        for rows in by_class.values():
            for name, digests in divided(rows, SHARES, seed).items():
                parts[name] += [rows[digest] for digest in digests]
        return {name: sorted(rows) for name, rows in parts.items()}

    def _check(self, by_class: dict[str, dict[str, int]]) -> None:
        if len(by_class) < 2:
            raise DataError(
                self.source, f"has one class only, {self.classes[0]!r}" if self.classes else "is empty",
                "give inputs of at least two classes",
            )  # fmt: skip
        for name, rows in by_class.items():
            if len(rows) < _LEAST:
                raise DataError(
                    self.source, f"has {len(rows)} different inputs of the class {name!r}",
                    f"give at least {_LEAST}, so that each part has some",
                )  # fmt: skip

    def _digest(self, row: int) -> str:
        each = self.inputs[row]
        content = each.contiguous().numpy().tobytes() if isinstance(each, torch.Tensor) else str(each).encode()
        return hashlib.sha256(content).hexdigest()


def read_labelled(path: str | Path) -> Labelled:
    """Labelled texts from a .jsonl file whose lines hold "text" and "label".

    Raises:
        DataError: missing, unreadable, empty, or a line without text or label.
    """
    text = read_text(path, f"labelled text {str(path)!r}", 'give a .jsonl file with "text" and "label"')
    rows = [_row(path, number, line) for number, line in numbered_lines(text)]
    if not rows:
        raise DataError(str(path), "is empty", 'give lines such as {"text": "...", "label": "..."}')
    return Labelled([text for text, _ in rows], tuple(label for _, label in rows), str(path))


def _row(path: str | Path, number: int, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
        text, label = record.get("text"), record.get("label")
    except (json.JSONDecodeError, AttributeError):
        raise DataError(f"{path} line {number}", "is no JSON object", "write one object a line") from None
    for name, value in (("text", text), ("label", label)):
        if value is None or isinstance(value, dict | list) or not str(value).strip():
            raise DataError(f"{path} line {number}", f"has no {name!r}", 'write {"text": "...", "label": "..."}')
    return str(text), str(label)
