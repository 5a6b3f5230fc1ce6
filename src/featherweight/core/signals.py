"""Signals: windows of equal length with labels of one or several tasks, some perhaps without.

A task is a set of labels: a column of a table, an array of a file. A row without a label ("") is trained on and never
asked. Files are read by `core.signal_files`, waves are made by `core.waves`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.errors import DataError
from featherweight.core.labelled import Labelled
from featherweight.core.lazy import torch
from featherweight.core.numerics import mean_and_scale

UNLABELLED = ""


@dataclass(frozen=True)
class Signals:
    """Windows of signals.

    Attributes:
        values: float32 [rows, samples, channels].
        labels: names of classes by task, one a row, "" where there is none.
        source: what a person would call them, for errors.
    """

    values: torch.Tensor
    labels: Mapping[str, Sequence[str]]
    source: str = "the signals"

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.values).all()):
            row, sample, channel = (~torch.isfinite(self.values)).nonzero()[0].tolist()
            raise DataError(
                self.source, f"is not a number in row {row}, sample {sample}, channel {channel}",
                "fill the gap, or leave that row out",
            )  # fmt: skip
        for task, names in self.labels.items():
            if len(names) != len(self.values):
                raise DataError(
                    f"{self.source}, {task}", f"has {len(names)} labels for {len(self.values)} rows",
                    "give one label a row, empty where there is none",
                )  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    @property
    def samples(self) -> int:
        return int(self.values.shape[1])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of values and labels."""
        labels = {task: list(names) for task, names in self.labels.items()}
        hashed = hashlib.sha256(json.dumps([list(self.values.shape), labels], sort_keys=True).encode())
        hashed.update(self.values.contiguous().numpy().tobytes())
        return hashed.hexdigest()

    def labelled(self, task: str) -> Labelled:
        """The rows of a task that have a label, for its probe."""
        rows = [row for row, name in enumerate(self.labels[task]) if name != UNLABELLED]
        names = tuple(self.labels[task][row] for row in rows)
        return Labelled(self.values[rows], names, f"{self.source}, task {task!r}")

    def standardised(self, like: torch.Tensor) -> Signals:
        """Every channel less the mean of `like`, over its deviation.

        Args:
            like: [rows, samples, channels].
        """
        mean, scale = mean_and_scale(like.flatten(0, 1))
        return Signals((self.values - mean) / scale, self.labels, self.source)

    def shuffled(self, seed: int) -> Signals:
        """The samples of every row in an order of its own: values stay, what follows what is gone."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(self.values.shape[:2], generator=generator).argsort(1)
        values = self.values.gather(1, order[..., None].expand_as(self.values))
        return Signals(values, self.labels, f"{self.source}, samples shuffled")


def windows(values: torch.Tensor, length: int, stride: int) -> torch.Tensor:
    """Windows of a recording.

    Args:
        values: [samples, channels].
        length: samples of a window.
        stride: from the start of one to that of the next.

    Returns:
        [windows, length, channels].
    """
    return values.unfold(0, length, stride).transpose(1, 2).contiguous()


def commonest(names: Sequence[str], length: int, stride: int) -> list[str]:
    """The commonest label of every window; of equally common ones the first in the window."""
    found = []
    for start in range(0, len(names) - length + 1, stride):
        inside = names[start : start + length]
        found.append(max(dict.fromkeys(inside), key=inside.count))
    return found
