"""Entangled widths: the factorised form against the double sum, gradients too; whole heads and whole rotary pairs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.train.mixing import by_heads, head_prefixes, mixed, mixed_by_loop, prefixes


@st.composite
def widths(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A size and some candidate widths of it."""
    size = draw(st.integers(1, 24))
    return size, sorted(draw(st.sets(st.integers(1, size), min_size=1, max_size=4)))


@given(widths(), widths(), st.integers(0, 1000))
def test_the_outer_product_is_the_double_sum(rows: tuple, columns: tuple, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows[0], columns[0], generator=generator, dtype=torch.float64)
    shares = [torch.rand(len(each[1]), generator=generator, dtype=torch.float64) for each in (rows, columns)]
    a_out, a_in = ((each / each.sum()).requires_grad_(True) for each in shares)
    factorised = mixed(
        weight, a_out @ prefixes(rows[1], rows[0]).double(), a_in @ prefixes(columns[1], columns[0]).double()
    )
    looped = mixed_by_loop(weight, rows[1], a_out, columns[1], a_in)
    assert (factorised - looped).abs().max() <= 1e-12
    pull = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    one = torch.autograd.grad((factorised * pull).sum(), (a_out, a_in))
    other = torch.autograd.grad((looped * pull).sum(), (a_out, a_in))
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_single_precision_stays_within_the_specified_error() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator)
    a_out, a_in = torch.rand(3, generator=generator).softmax(0), torch.rand(4, generator=generator).softmax(0)
    looped = mixed_by_loop(weight, [32, 64, 96], a_out, [16, 32, 48, 64], a_in)
    factorised = mixed(weight, a_out @ prefixes([32, 64, 96], 96), a_in @ prefixes([16, 32, 48, 64], 64))
    assert (factorised - looped).abs().max() <= 1e-6


def test_one_width_for_certain_is_the_padded_slice() -> None:
    weight = torch.arange(1.0, 13.0).reshape(3, 4)
    result = mixed(weight, torch.tensor([1.0, 0.0]) @ prefixes([2, 3], 3), torch.tensor([1.0]) @ prefixes([3], 4))
    assert torch.equal(result[:2, :3], weight[:2, :3])
    assert result[2].abs().sum() == result[:, 3].abs().sum() == 0


def test_axes_that_are_not_searched_are_left_alone() -> None:
    weight = torch.randn(3, 4)
    assert mixed(weight, None, None) is weight


@given(st.integers(1, 12), st.data())
def test_narrower_heads_keep_whole_rotary_pairs(pairs: int, data: st.DataObject) -> None:
    width = 2 * pairs
    kept = 2 * data.draw(st.integers(1, pairs))
    [mask] = head_prefixes([kept], width)
    assert int(mask.sum()) == kept
    assert torch.equal(mask[:pairs], mask[pairs:])  # channel i stays with its partner i + width / 2
    assert torch.equal(mask[:pairs], (torch.arange(pairs) < kept // 2).float())


def test_all_query_heads_of_a_group_share_its_fate() -> None:
    channels = by_heads(torch.tensor([1.0, 0.25]), 3, torch.tensor([1.0, 0.5]))
    assert torch.equal(channels[:6], torch.tensor([1.0, 0.5]).repeat(3))
    assert torch.equal(channels[6:], 0.25 * channels[:6])
