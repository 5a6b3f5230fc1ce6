"""SNIP scores on a case that is solved by hand, and exact shares of masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.train.saliency import highest, snip_scores


def test_scores_are_weights_times_mean_absolute_gradients() -> None:
    inputs = torch.tensor([[1.0, -2.0], [-1.0, -4.0]])
    current = {"w": torch.tensor([[0.5, 3.0]])}
    weights = {"w": torch.tensor([[2.0, -1.0]])}
    scores = snip_scores(lambda given, index: (given["w"] * inputs[index]).sum(), 2, current, weights)
    torch.testing.assert_close(scores["w"], torch.tensor([[2.0 * 1.0, 1.0 * 3.0]]))  # 1 and -1 do not cancel


def test_nothing_that_was_given_is_changed() -> None:
    current = {"w": torch.ones(2, 3)}
    snip_scores(lambda given, index: given["w"].square().sum(), 3, current, current)
    assert torch.equal(current["w"], torch.ones(2, 3))
    assert not current["w"].requires_grad


@given(st.floats(0, 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_a_share_is_exact_whatever_the_scores(share: float, rows: int, columns: int, ties: int) -> None:
    generator = torch.Generator().manual_seed(rows * columns)
    scores = torch.randint(0, ties + 1, (rows, columns), generator=generator).float()
    mask = highest({"w": scores}, share)["w"]
    assert abs(int(mask.sum()) - share * mask.numel()) <= 1
    if bool(mask.any()) and not bool(mask.all()):
        assert scores[mask].min() >= scores[~mask].max()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_over_all_matrices_together(share: float) -> None:
    scores = {"small": torch.arange(10.0).reshape(2, 5), "large": torch.arange(100.0, 120.0).reshape(4, 5)}
    masks = highest(scores, share, "model")
    assert sum(int(mask.sum()) for mask in masks.values()) == round(30 * share)
    assert int(masks["small"].sum()) == (10 if share == 1 else 0)
    assert {name: mask.shape for name, mask in masks.items()} == {name: each.shape for name, each in scores.items()}
