"""Closeness of token states, counted by hand."""

from __future__ import annotations

import pytest
import torch

from featherweight.measure.token_cosine import token_cosine


def states(seed: int, lengths: tuple[int, ...] = (3, 1, 6)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, 8, generator=generator) for length in lengths]


def test_the_same_states_have_cosine_one() -> None:
    found = token_cosine(states(0), states(0))
    assert found is not None
    assert (found.prompts, found.tokens) == (3, 10)
    for value in (found.cosine, found.centred, found.worst, *found.interval):
        assert value == pytest.approx(1, abs=1e-6)


def test_every_token_counts_the_same() -> None:
    one, other = states(0), states(1)
    found = token_cosine(one, other)
    assert found is not None
    expected = torch.cosine_similarity(torch.cat(one), torch.cat(other), dim=-1).mean()
    assert found.cosine == pytest.approx(float(expected), abs=1e-6)
    assert found.interval[0] <= found.cosine <= found.interval[1]


def test_a_large_common_part_flatters_only_the_plain_cosine() -> None:
    common = 100 * torch.ones(8)
    found = token_cosine([each + common for each in states(0)], [each + common for each in states(1)])
    assert found is not None
    assert found.cosine > 0.99
    assert found.centred < 0.5


def test_nothing_to_compare() -> None:
    assert token_cosine([], []) is None
