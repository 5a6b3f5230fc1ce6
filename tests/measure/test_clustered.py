"""Means over documents: the textbook error for one sample a document, wider where documents agree with themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.measure.clustered import clustered_mean


@given(st.integers(2, 40), st.integers(0, 99))
def test_one_sample_a_document_is_the_textbook(count: int, seed: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = clustered_mean(values, torch.arange(count))
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.error == pytest.approx(float(values.std()) / math.sqrt(count))


def test_repeating_a_document_tells_nothing_more() -> None:
    values, units = torch.tensor([0.1, 0.5, 0.4, 0.9]), torch.arange(4)
    once = clustered_mean(values, units)
    often = clustered_mean(values.repeat_interleave(50), units.repeat_interleave(50))
    assert often.error == pytest.approx(once.error)
    assert often.interval() == pytest.approx(once.interval())


def test_no_difference_is_surely_none() -> None:
    found = clustered_mean(torch.zeros(9), torch.arange(9))
    assert found.interval() == (0, 0)
    assert found.above(0.001) == 0


def test_one_document_cannot_tell() -> None:
    found = clustered_mean(torch.rand(9), torch.zeros(9, dtype=torch.int64))
    assert found.above(0.05) == -math.inf
    assert found.interval()[1] == math.inf


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = above = 0
    for _ in range(400):
        own = torch.randn(8, generator=generator).repeat_interleave(5)
        found = clustered_mean(own + torch.randn(40, generator=generator), torch.arange(8).repeat_interleave(5))
        low, high = found.interval(0.1)
        hits += low <= 0 <= high
        above += found.above(0.05) > 0
    assert 340 <= hits <= 376  # of 360
    assert above <= 32  # of 20
