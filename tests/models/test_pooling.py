"""Pooling sees only what counts."""

from __future__ import annotations

import pytest
import torch

from featherweight.models.pooling import Pool, pooled

POOLS: tuple[Pool, ...] = ("mean", "last", "first")


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing_whatever_it_holds(pool: Pool, left: bool) -> None:
    states = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    padding = torch.full((3, 2, 4), float("inf"))
    counts, none = torch.ones(3, 5), torch.zeros(3, 2)
    order = slice(None, None, -1) if left else slice(None)
    padded, mask = torch.cat([states, padding][order], 1), torch.cat([counts, none][order], 1)
    torch.testing.assert_close(pooled(padded, pool, mask), pooled(states, pool), rtol=0, atol=1e-6)


def test_each_pool_is_what_it_says() -> None:
    states = torch.arange(12.0).reshape(1, 4, 3)
    mask = torch.tensor([[0, 1, 1, 0]])
    assert pooled(states, "mean", mask).tolist() == [[4.5, 5.5, 6.5]]
    assert pooled(states, "last", mask).tolist() == [[6.0, 7.0, 8.0]]
    assert pooled(states, "first", mask).tolist() == [[3.0, 4.0, 5.0]]


def test_feature_maps_are_averaged_over_positions() -> None:
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert pooled(maps).tolist() == [[1.5, 5.5]]
    assert pooled(torch.ones(2, 3)).tolist() == [[1.0] * 3] * 2
