"""Choosing which weights become zero, and storing a matrix with zeros."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import FormatError, RecipeError
from featherweight.core.formats import get
from featherweight.core.sparsity import lowest, with_zeros
from featherweight.core.technique import build
from featherweight.techniques.prune.magnitude import Magnitude

WITH_ZERO = ["Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K", "int4-g32", "int4-g64-asym", "int3-g32-asym", "int8-channel-asym"]
WITHOUT_ZERO = ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS"]


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 20), st.integers(0, 10**6))
def test_lowest_is_the_head_of_a_stable_sort(rows: int, columns: int, count: int, seed: int) -> None:
    count = min(count, columns)
    scores = torch.randint(0, 4, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    order = scores.sort(dim=1, stable=True).indices[:, :count]
    assert torch.equal(lowest(scores, count), torch.zeros(rows, columns, dtype=torch.bool).scatter_(1, order, True))


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(n + 1, 8))), st.integers(0, 99))
def test_every_group_of_m_keeps_exactly_n(pattern: tuple[int, int], seed: int) -> None:
    n, m = pattern
    pruner = Magnitude(pattern=f"{n}:{m}", sparsity=1 - n / m)
    scores = torch.rand(5, 3 * m, generator=torch.Generator().manual_seed(seed))
    dropped = pruner.dropped(scores, "row")
    assert ((~dropped).reshape(-1, m).sum(1) == n).all()
    groups, kept = scores.reshape(-1, m), (~dropped).reshape(-1, m)
    assert (groups.masked_fill(~kept, 2).amin(1) >= groups.masked_fill(kept, 0).amax(1)).all()


@given(st.floats(0, 0.99), st.sampled_from(["row", "matrix"]))
def test_the_share_is_exact(share: float, compare: str) -> None:
    scores = torch.rand(7, 30, generator=torch.Generator().manual_seed(1))
    dropped = Magnitude(sparsity=share).dropped(scores, compare)  # type: ignore[arg-type]
    if compare == "row":
        assert (dropped.sum(1) == round(share * 30)).all()
    else:
        assert dropped.sum() == round(share * 210)
    assert compare == "row" or scores[~dropped].min() >= torch.where(dropped, scores, 0).max()


@pytest.mark.parametrize("name", WITH_ZERO + WITHOUT_ZERO)
def test_dropping_leaves_every_other_weight_as_it_is(name: str) -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)) + 0.1
    packed = get(name).fit(weight)
    dropped = torch.rand(16, 256, generator=torch.Generator().manual_seed(1)) < 0.5
    pruned = with_zeros(packed, dropped)
    assert pruned.format == name
    assert torch.equal(pruned.dequantize()[~dropped], packed.dequantize()[~dropped])
    zeros = (pruned.dequantize()[dropped] == 0).float().mean()
    assert zeros == 1 if name in WITH_ZERO else zeros < 1


def test_dropping_nothing_is_bit_for_bit_neutral() -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0))
    for name in WITH_ZERO + WITHOUT_ZERO:
        packed = get(name).fit(weight)
        same = with_zeros(packed, torch.zeros(16, 256, dtype=torch.bool))
        assert all(torch.equal(same.parts[part], packed.parts[part]) for part in packed.parts)


def test_plain_tensors_keep_their_dtype() -> None:
    weight = torch.randn(3, 4).bfloat16()
    pruned = with_zeros(weight, torch.eye(3, 4).bool())
    assert pruned.dtype == torch.bfloat16
    assert torch.equal(pruned, weight * (1 - torch.eye(3, 4).bfloat16()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "2:4", "sparsity": 0.3}, "must be 0.5 with the pattern 2:4"),
        ({"pattern": "1:4"}, "must be 0.75 with the pattern 1:4"),
        ({"pattern": "4:2"}, "n:m with n < m"),
        ({"pattern": "half"}, "n:m with n < m"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsity": -0.1}, "greater than or equal to 0"),
    ],
)
def test_contradicting_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build("magnitude", fields)


def test_rows_that_m_does_not_divide_are_refused() -> None:
    with pytest.raises(FormatError, match="no multiple of m"):
        Magnitude(pattern="2:5", sparsity=0.6).require_fit(64, "some.weight")
