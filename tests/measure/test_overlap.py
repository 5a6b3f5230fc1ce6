"""The overlap of masks: union count, Jaccard against independence, breaks in the trend."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.measure.overlap import (
    count,
    independent_jaccard,
    jaccard,
    overlap_of,
    size,
    trend_break,
    union_of,
)

BITS = st.lists(st.booleans(), min_size=12, max_size=12)


@given(st.lists(BITS, min_size=1, max_size=4))
def test_the_union_counts_weights_with_any_bit_set(bits: list[list[bool]]) -> None:
    masks = [{"w": torch.tensor(each).reshape(3, 4)} for each in bits]
    assert count(union_of(masks)) == sum(any(column) for column in zip(*bits, strict=True))
    assert size(masks[0]) == 12


@given(BITS, BITS)
def test_jaccard_is_that_of_sets(one: list[bool], other: list[bool]) -> None:
    first, second = ({place for place, bit in enumerate(each) if bit} for each in (one, other))
    expected = len(first & second) / len(first | second) if first | second else 1.0
    assert jaccard(torch.tensor(one), torch.tensor(other)) == expected


@pytest.mark.parametrize("density", [0.5, 0.25, 0.1, 0.02])
def test_independent_masks_have_the_independent_index_and_no_excess(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = {name: {"w": torch.rand(1000, 500, generator=generator) < density} for name in "abc"}
    found = overlap_of(masks)
    assert found.jaccard == pytest.approx(independent_jaccard(density), rel=0.05)
    assert abs(found.excess) < 0.01
    assert found.union == pytest.approx(500_000 * (1 - (1 - density) ** 3), rel=0.02)
    assert set(found.pairs) == {"a/b", "a/c", "b/c"}


def test_equal_masks_and_a_single_mask() -> None:
    mask = {"v": torch.tensor([True, False]), "w": torch.tensor([[True, False, False]])}
    for masks in ({"a": mask}, {"a": mask, "b": mask}):
        found = overlap_of(masks)
        assert (found.jaccard, found.excess, found.union, found.density) == (1.0, 1.0, 2, 0.4)
        assert found.tensors == {"v": 1.0, "w": 1.0}


def test_disjoint_masks_are_below_independence() -> None:
    half = torch.arange(8) < 4
    found = overlap_of({"a": {"w": half}, "b": {"w": ~half}})
    assert found.jaccard == 0
    assert found.excess < 0


def test_a_break_of_the_trend_in_either_direction() -> None:
    assert trend_break([0.1, 0.2]) == 0
    assert trend_break([0.1, 0.2, 0.3]) == pytest.approx(0)
    assert trend_break([0.1, 0.2, 0.5]) == pytest.approx(0.2)
    assert trend_break([0.1, 0.2, 0.1]) == pytest.approx(0.2)
