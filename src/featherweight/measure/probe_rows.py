"""Rows of tokens that a language model is looked at on: at which positions, and what the right label is there.

A sample is a position ("all": every one but a row's first, which sees itself only and is the same in all texts, and
those without a label), a row's last position ("last"), or the mean of a row's positions ("mean"). Rows of different
lengths are padded on the right, where earlier positions of a causal model do not see it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError
from featherweight.core.labelled import Labelled
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.measure.token_classes import TokenClasses

Positions = Literal["all", "last", "mean"]


@dataclass(frozen=True)
class ProbeRows:
    """Where to look.

    Attributes:
        ids: int64 [rows, tokens].
        looked: bool [rows, tokens], the positions that are looked at; at least one a row.
        targets: index of each sample's label, int64 [samples].
        names: of the labels.
        units: document of each row, int64 [rows]: rows of one document vary together.
        averaged: whether a row's positions are one sample, their mean.
        classes: of tokens, where the label is the class of the next token; else None.
    """

    ids: torch.Tensor
    looked: torch.Tensor
    targets: torch.Tensor
    names: tuple[str, ...]
    units: torch.Tensor
    averaged: bool = False
    classes: TokenClasses | None = None

    @functools.cached_property
    def sample_rows(self) -> torch.Tensor:
        """The row of each sample, int64 [samples]."""
        return torch.arange(len(self.ids)) if self.averaged else self.looked.nonzero()[:, 0]

    @property
    def sample_units(self) -> torch.Tensor:
        """The document of each sample, int64 [samples]."""
        return self.units[self.sample_rows]

    @property
    def positions(self) -> Positions:
        """What is a sample."""
        if self.averaged:
            return "mean"
        return "last" if int(self.looked.sum(1).max()) == 1 else "all"

    @property
    def real(self) -> torch.Tensor:
        """bool [rows, tokens]: positions up to the last one that is looked at; nothing of them is padding."""
        return self.looked.flip(1).cumsum(1).flip(1) > 0

    def some(self, tokens: int) -> ProbeRows:
        """Evenly spaced rows that together hold at most so many tokens, two at least."""
        count = min(max(2, tokens // self.ids.shape[1]), len(self.ids))
        rows = torch.linspace(0, len(self.ids) - 1, count).round().long()
        kept = torch.isin(self.sample_rows, rows)
        return dataclasses.replace(
            self, ids=self.ids[rows], looked=self.looked[rows], targets=self.targets[kept], units=self.units[rows]
        )

    def pick(self, states: torch.Tensor) -> torch.Tensor:
        """What belongs to each sample, [samples, width], of states [rows, tokens, width]."""
        looked = self.looked.to(states.device)
        if not self.averaged:
            return states[looked]
        kept = states.masked_fill(~looked[..., None], 0.0)
        return kept.sum(1) / looked.sum(1, keepdim=True)


def next_token_rows(tokens: TokenSet, classes: TokenClasses, positions: Positions = "all") -> ProbeRows:
    """The label of a position is the class of the token that follows.

    Raises:
        DataError: positions are to be averaged: each has a label of its own.
    """
    if positions == "mean":
        raise DataError("positions 'mean'", "leave no next token to tell", "use 'all' or 'last', or labels of rows")
    looked = torch.zeros_like(tokens.ids, dtype=torch.bool)
    looked[:, slice(-2, -1) if positions == "last" else slice(1, -1)] = True
    following = classes.table[tokens.ids.roll(-1, 1)]
    return ProbeRows(tokens.ids, looked, following[looked], classes.names, _units(tokens), classes=classes)


def domain_rows(tokens: TokenSet, positions: Positions = "all", names: Sequence[str] = ()) -> ProbeRows:
    """The label of all positions of a row is its domain.

    Args:
        tokens: rows with domains.
        positions: what is a sample.
        names: the labels; () = the domains that occur, in their order.

    Raises:
        DataError: there is only one, or a row has another one.
    """
    labels = tuple(names) or tuple(dict.fromkeys(tokens.domains))
    for domain in dict.fromkeys(tokens.domains):
        if domain not in labels:
            raise DataError(f"the domain {domain!r}", f"is none of {', '.join(labels)}", "fit on text of all domains")
    targets = torch.tensor([labels.index(domain) for domain in tokens.domains])
    whole = torch.ones_like(tokens.ids, dtype=torch.bool)
    return _of_rows(tokens.ids, whole, targets, labels, _units(tokens), positions)


def labelled_rows(model: Model, data: Labelled, length: int, positions: Positions = "last") -> ProbeRows:
    """Texts with labels of the user's, such as "comply" and "refuse".

    Args:
        model: whose tokens they become.
        data: texts; each is a document of its own.
        length: tokens of a text at most.
        positions: what is a sample.

    Raises:
        DataError: there is one label only, or a text without tokens.
    """
    from featherweight.models.donors import tokens_of

    inputs = tokens_of(model.tokenizer, data, length)
    units = torch.arange(len(data))
    return _of_rows(inputs["input_ids"], inputs["attention_mask"].bool(), data.targets, data.classes, units, positions)


def request_rows(
    model: Model,
    texts: Sequence[str],
    length: int,
    positions: Positions,
    names: tuple[str, ...],
    classes: TokenClasses | None = None,
) -> ProbeRows:
    """Texts without labels, each a document of its own; targets say nothing.

    Args:
        model: whose tokens they become.
        texts: one or more.
        length: tokens of a text at most.
        positions: what is a sample.
        names: of the labels that will be predicted.
        classes: of tokens, where the labels are such.
    """
    from featherweight.models.donors import tokens_of

    inputs = tokens_of(model.tokenizer, Labelled(list(texts), ("",) * len(texts), "the requests"), length)
    none, units = torch.zeros(len(texts), dtype=torch.int64), torch.arange(len(texts))
    rows = _of_rows(inputs["input_ids"], inputs["attention_mask"].bool(), none, names, units, positions)
    return dataclasses.replace(rows, classes=classes)


def _of_rows(
    ids: torch.Tensor,
    real: torch.Tensor,
    targets: torch.Tensor,
    names: tuple[str, ...],
    units: torch.Tensor,
    positions: Positions,
) -> ProbeRows:
    """Rows with one label each; `real` marks what is no padding."""
    if len(names) < 2:
        raise DataError("the labels", f"are {len(names)}: {', '.join(names)}", "give text of at least two labels")
    looked = real.clone()
    if positions == "last":
        looked.zero_()
        looked[torch.arange(len(ids)), real.sum(1) - 1] = True
    else:
        looked[:, 0] = real.sum(1) == 1
    rows = torch.arange(len(ids)) if positions == "mean" else looked.nonzero()[:, 0]
    return ProbeRows(ids, looked, targets[rows], names, units, positions == "mean")


def _units(tokens: TokenSet) -> torch.Tensor:
    return torch.tensor(tokens.documents)
