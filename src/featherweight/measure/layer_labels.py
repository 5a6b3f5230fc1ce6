"""Which rows a layer audit is fitted on, which it looks at, and what their labels are, from what a person names.

"kind", "frequency" and "hash" are classes of the next token; "domain" is the domain of the text. A file of the user's
gives its own labels (comply or refuse, a topic, anything); its training part is fitted on, the rest is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError, nearest
from featherweight.core.labelled import Labelled, read_labelled
from featherweight.core.model import Model
from featherweight.measure.probe_rows import Positions, ProbeRows, domain_rows, labelled_rows, next_token_rows
from featherweight.measure.token_classes import (
    TokenClasses,
    classes_by_frequency,
    classes_by_hash,
    classes_by_kind,
)

Labels = Literal["kind", "frequency", "hash", "domain"]
LOOKED_TOKENS = 2048
"""Tokens that are looked at, at most: the parent's hidden states at all of them are kept."""
_CLASSES = 8


def row_pair(
    model: Model, fit: TokenSet, audit: TokenSet, labels: str = "kind", seed: int = 0
) -> tuple[ProbeRows, ProbeRows]:
    """Rows to fit on and rows to look at, for what a person writes.

    Args:
        model: the parent.
        fit: calibration rows; not read where a file gives the texts.
        audit: held-out rows; the same.
        labels: "kind", "frequency", "hash", "domain", or a .jsonl file of lines with "text" and "label".
        seed: of a file's division.

    Raises:
        DataError: it is none of these.
    """
    if Path(labels).suffix == ".jsonl":
        return labelled_pair(model, read_labelled(labels), seed)
    if labels not in get_args(Labels):
        hint = nearest(labels, get_args(Labels)) or 'or a .jsonl file of lines with "text" and "label"'
        raise DataError(
            f"the labels {labels!r}", f"are none of {', '.join(get_args(Labels))}", f"use one of them; {hint}"
        )
    return token_pair(model, fit, audit, labels)  # type: ignore[arg-type]


def token_pair(
    model: Model,
    fit: TokenSet,
    audit: TokenSet,
    labels: Labels = "kind",
    positions: Positions = "all",
    tokens: int = LOOKED_TOKENS,
) -> tuple[ProbeRows, ProbeRows]:
    """Rows to fit on and rows to look at, of token rows.

    Args:
        model: the parent.
        fit: calibration rows.
        audit: held-out rows.
        labels: what is to be told.
        positions: what is a sample.
        tokens: to look at, at most; rows are taken from all domains alike.
    """
    looked = audit.spread(max(2, tokens // audit.ids.shape[1]))
    if labels == "domain":
        known = domain_rows(fit, positions)
        return known, domain_rows(looked, positions, known.names)
    classes = token_classes(model, fit, labels)
    return next_token_rows(fit, classes, positions), next_token_rows(looked, classes, positions)


def token_classes(model: Model, fit: TokenSet, labels: Labels) -> TokenClasses:
    """Classes of the next token by a name."""
    vocabulary = model.architecture.size("vocab")
    if labels == "hash":
        return classes_by_hash(vocabulary, _CLASSES)
    if labels == "frequency":
        return classes_by_frequency(fit.ids, vocabulary, _CLASSES)
    return classes_by_kind(model.tokenizer, vocabulary)


def labelled_pair(
    model: Model, data: Labelled, seed: int = 0, length: int = 256, positions: Positions = "last"
) -> tuple[ProbeRows, ProbeRows]:
    """Rows to fit on and rows to look at, of texts with labels.

    Args:
        model: the parent.
        data: texts with labels, at least five of each (`read_labelled` reads them from a file).
        seed: of the division.
        length: tokens of a text at most.
        positions: what is a sample.

    Raises:
        DataError: fewer than two labels, or too few texts of one.
    """
    parts = data.parts(seed)
    looked = sorted([*parts["validation"], *parts["test"]])
    fit, audit = (data.take(rows) for rows in (parts["training"], looked))
    return labelled_rows(model, fit, length, positions), labelled_rows(model, audit, length, positions)
