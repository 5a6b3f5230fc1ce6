"""Where a model is looked at: labels stand at the right positions, padding is never a sample, means are means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError
from featherweight.core.labelled import Labelled
from featherweight.core.source import open_folder
from featherweight.measure.probe_rows import domain_rows, labelled_rows, next_token_rows
from featherweight.measure.token_classes import TokenClasses

TOKENS = TokenSet(torch.tensor([[1, 5, 2, 7], [1, 6, 3, 4]]), ("prose", "code"), (3, 8))
PARITY = TokenClasses(("even", "odd"), torch.arange(10) % 2)
STATES = torch.arange(24, dtype=torch.float32).reshape(2, 4, 3)


def test_the_label_is_the_class_of_the_token_that_follows() -> None:
    rows = next_token_rows(TOKENS, PARITY)
    assert rows.looked.tolist() == [[False, True, True, False]] * 2
    assert rows.targets.tolist() == [0, 1, 1, 0]  # 2, 7, 3, 4
    assert rows.sample_units.tolist() == [3, 3, 8, 8]
    assert torch.equal(rows.pick(STATES), STATES[:, 1:3].reshape(4, 3))
    last = next_token_rows(TOKENS, PARITY, "last")
    assert last.targets.tolist() == [1, 0]
    assert torch.equal(last.pick(STATES), STATES[:, 2])
    with pytest.raises(DataError, match="no next token"):
        next_token_rows(TOKENS, PARITY, "mean")


def test_the_domain_is_the_label_of_every_position() -> None:
    rows = domain_rows(TOKENS)
    assert rows.names == ("prose", "code")
    assert rows.targets.tolist() == [0, 0, 0, 1, 1, 1]
    mean = domain_rows(TOKENS, "mean", ("code", "prose"))
    assert mean.targets.tolist() == [1, 0]
    assert torch.allclose(mean.pick(STATES), STATES[:, 1:].mean(1))
    with pytest.raises(DataError, match="none of prose, poetry"):
        domain_rows(TOKENS, names=("prose", "poetry"))
    with pytest.raises(DataError, match="at least two labels"):
        domain_rows(TOKENS.rows([0]))


def test_texts_of_different_lengths(tiny: Path) -> None:
    model = open_folder(tiny)
    data = Labelled(["yes", "no, and that is that", "perhaps"], ("comply", "refuse", "comply"))
    last = labelled_rows(model, data, 16)
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in data.texts]
    assert last.looked.nonzero().tolist() == [[row, length - 1] for row, length in enumerate(lengths)]
    assert last.names == ("comply", "refuse")
    assert last.targets.tolist() == [0, 1, 0]
    assert last.real.sum(1).tolist() == lengths
    every = labelled_rows(model, data, 16, "all")
    assert every.looked.sum(1).tolist() == [max(length - 1, 1) for length in lengths]
    assert torch.equal(torch.bincount(every.sample_rows), every.looked.sum(1))


def test_some_rows_keep_their_samples() -> None:
    rows = next_token_rows(TokenSet(torch.arange(40).reshape(10, 4) % 10, ("a",) * 10, tuple(range(10))), PARITY)
    some = rows.some(16)
    assert some.units.tolist() == [0, 3, 6, 9]
    assert torch.equal(some.targets, rows.targets.reshape(10, 2)[[0, 3, 6, 9]].flatten())
    assert rows.some(1).units.tolist() == [0, 9]
    assert len(rows.some(999).ids) == 10
