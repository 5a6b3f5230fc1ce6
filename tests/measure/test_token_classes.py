"""Classes of tokens: every id has one, kinds are what a reader would say, shares are even, hashes mean nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.measure.token_classes import (
    KINDS,
    classes_by_frequency,
    classes_by_hash,
    classes_by_kind,
)
from featherweight.testing.tiny import VOCABULARY, tiny_tokenizer


def test_kinds_are_what_a_reader_would_say() -> None:
    tokenizer = tiny_tokenizer()
    classes = classes_by_kind(tokenizer, VOCABULARY + 3)
    assert classes.table.shape == (VOCABULARY + 3,)

    def kinds(text: str) -> list[str]:
        return [KINDS[classes.table[index]] for index in tokenizer(text)["input_ids"]]

    assert kinds(" the") == ["word"]
    assert kinds("s") == ["rest of a word"]
    assert kinds("7") == ["number"]
    assert kinds("(") == ["mark"]
    assert kinds("\n") == ["space"]
    assert kinds("<|end|>") == ["special"]
    assert set(classes.table[VOCABULARY:].tolist()) == {KINDS.index("other")}


@given(st.integers(2, 20), st.integers(0, 99))
def test_frequent_tokens_come_first_in_even_shares(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = (torch.rand(3000, generator=generator) ** 3 * 90).long()
    found = classes_by_frequency(ids, 100, count)
    assert len(found.names) == count
    seen = torch.bincount(ids, minlength=100)
    assert torch.equal(found.table == count - 1, seen == 0)
    order = seen.argsort(descending=True, stable=True)
    ranked = found.table[order][: int((seen > 0).sum())]
    assert torch.equal(ranked, ranked.sort().values)


def test_even_shares_of_an_even_text() -> None:
    found = classes_by_frequency(torch.arange(80), 100, 5)
    assert torch.bincount(found.table).tolist() == [20, 20, 20, 20, 20]


@given(st.integers(2, 50), st.integers(0, 2**40))
def test_hashes_are_even_and_depend_on_the_seed(count: int, seed: int) -> None:
    found = classes_by_hash(5000, count, seed)
    sizes = torch.bincount(found.table, minlength=count).double()
    assert float((sizes - 5000 / count).abs().max()) < 6 * (5000 / count) ** 0.5
    assert torch.equal(found.table, classes_by_hash(5000, count, seed).table)
    assert not torch.equal(found.table, classes_by_hash(5000, count, seed + 1).table)


def test_mass_adds_up() -> None:
    found = classes_by_hash(64, 5)
    chances = torch.randn(7, 64).softmax(1)
    mass = found.mass(chances)
    assert torch.allclose(mass.sum(1), torch.ones(7, dtype=torch.float64), atol=1e-6)
    assert float(mass[0, 3]) == pytest.approx(float(chances[0, found.table == 3].sum()), rel=1e-5)


def test_one_class_tells_nothing_apart() -> None:
    with pytest.raises(DataError, match="nothing apart"):
        classes_by_hash(64, 1)
    with pytest.raises(DataError, match="nothing apart"):
        classes_by_frequency(torch.arange(9), 64, 1)
