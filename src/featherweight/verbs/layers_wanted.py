"""How `verify --layers` looks at layers: by which labels, with which limit, and whether layers are put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from featherweight.core.budget import parse_margin
from featherweight.core.errors import DataError, nearest
from featherweight.core.labelled import Labelled, read_labelled
from featherweight.core.model import Model
from featherweight.measure.connectors.facts import text_digest
from featherweight.measure.layer_labels import Labels, labelled_pair, token_pair
from featherweight.measure.probe_rows import ProbeRows
from featherweight.verbs.prepare import Rows


@dataclass(frozen=True)
class LayersWanted:
    """Checked options.

    Attributes:
        limit: largest drift that any place may have; None = the layers inform and decide nothing.
        labels: what is to be told of each position, or texts with labels.
        restore: whether to measure what putting back each layer would bring.
    """

    limit: float | None
    labels: Labels | Labelled
    restore: bool

    def rows(self, parent: Model, seed: int, text: Callable[[], Rows]) -> tuple[ProbeRows, ProbeRows]:
        """Rows to fit on and rows to look at; `text` is read where labels come from it."""
        if isinstance(self.labels, Labelled):
            return labelled_pair(parent, self.labels, seed)
        return token_pair(parent, text().calibration, text().held_out, self.labels)

    def facts(self) -> dict[str, Any]:
        """Plain JSON values."""
        labels = (
            text_digest([self.labels.texts, self.labels.labels]) if isinstance(self.labels, Labelled) else self.labels
        )
        return {"limit": self.limit, "labels": labels, "restore": self.restore}


def read_layers(limit: str | float | None, labels: str | Path, restore: bool) -> LayersWanted:
    """Reads and checks options.

    Raises:
        BudgetError: the limit makes no sense; DataError: the labels are neither known nor a file.
    """
    share = None if limit is None else parse_margin(limit, "layer-limit")
    if str(labels) in get_args(Labels):
        return LayersWanted(share, cast(Labels, str(labels)), restore)
    if not Path(labels).is_file():
        hint = nearest(str(labels), get_args(Labels)) or f"use {', '.join(get_args(Labels))} or a .jsonl file"
        raise DataError(f"--layer-labels {str(labels)!r}", "is neither known nor a file", hint)
    return LayersWanted(share, read_labelled(str(labels)), restore)
