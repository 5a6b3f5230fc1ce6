"""Use of a text encoder by a log, from lists small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.host import open_host
from featherweight.measure.workload import (
    candidates,
    context_use,
    mutual_cosine,
    position_use,
    quantile,
    vocabulary_use,
    workload,
)
from featherweight.testing.encoders import phrases, tiny_clip

LENGTHS = [2, 4, 4, 6, 8, 12]


def test_a_list_counted_by_hand() -> None:
    eight = context_use(LENGTHS, 8)
    assert eight.density == pytest.approx((2 + 4 + 4 + 6 + 8 + 8) / 48)
    assert eight.padding == pytest.approx(16 / 48)
    assert eight.truncated == pytest.approx(1 / 6)
    assert eight.lost == pytest.approx(4 / 36)
    whole = context_use(LENGTHS, 16)
    assert (whole.density, whole.truncated, whole.lost) == (pytest.approx(36 / 96), 0, 0)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=50), st.integers(1, 100))
def test_longer_rows_lose_less_and_pad_more(lengths: list[int], context: int) -> None:
    short, long = context_use(lengths, context), context_use(lengths, context + 1)
    assert short.density + short.padding == pytest.approx(1)
    assert long.density <= short.density + 1e-12
    assert long.truncated <= short.truncated
    assert long.lost <= short.lost + 1e-12
    assert 0 <= short.density <= 1


@given(st.lists(st.integers(1, 90), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_covers_its_share(lengths: list[int], share: float) -> None:
    found = quantile(sorted(lengths), share)
    assert sum(length <= found for length in lengths) >= share * len(lengths) - 1e-6


def test_candidates_reach_from_the_shortest_to_the_components_own() -> None:
    assert candidates([3, 9], 77) == [4, 6, 8, 12, 77]
    assert candidates([3, 90], 77)[-1] == 77


def test_vocabulary_counted_by_hand() -> None:
    use = vocabulary_use([[1, 5, 2], [1, 5, 7, 2]], 20)
    assert (use.used, use.share) == (4, 0.2)
    assert use.unseen == pytest.approx(1 / 7)  # only 7 occurs once


def test_positions_in_use_and_behind() -> None:
    table = torch.eye(10)
    table[4:] = torch.ones(10)
    use = position_use(table, [3] * 19 + [4])
    assert use is not None
    assert (use.rows, use.used) == (10, 4)
    assert use.head == pytest.approx(0)
    assert use.tail is not None
    assert use.tail > 0.6
    assert position_use(table, [10])
    assert position_use(None, [3]) is None
    assert mutual_cosine(table[:1]) is None
    assert mutual_cosine(torch.tensor([[1.0, 0], [0, 1], [0, 2]])) == pytest.approx(1 / 3)


def test_a_whole_audit(tmp_path: Path) -> None:
    component = open_host(tiny_clip(tmp_path)).component("text_model")
    log = [*phrases(), *phrases()[:50]]
    found = workload(component, log, torch.Generator().manual_seed(0))
    assert (found.prompts, found.distinct) == (len(log), len(set(log)))
    assert found.longest == 7  # five words, start and end
    assert found.contexts[-1].context == 77
    assert found.vocabulary.used == len({word for phrase in log for word in phrase.split()}) + 2
    assert found.positions is not None
    assert (found.positions.rows, found.positions.used) == (77, 7)
    assert found.outputs is not None
    assert found.outputs.width == 32
    assert found.parameters == sum(each.numel() for each in component.module.parameters())
    assert found == workload(component, log, torch.Generator().manual_seed(0))
