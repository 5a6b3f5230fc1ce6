"""Matched IoU: exact cases, against all permutations, and what a mistake costs."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.scenes import boxes
from featherweight.measure.mask_iou import _drawn, matched_iou, pairwise_iou, scene_ious
from featherweight.testing.segmenters import coloured_shapes, tiny_deformable_detr, tiny_mask2former


def masks(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 5, 5, generator=torch.Generator().manual_seed(seed)) > 0.5


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_the_matching_is_the_best_of_all(predictions: int, objects: int, seed: int) -> None:
    found, true = masks(predictions, seed), masks(objects, seed + 100)
    overlap = pairwise_iou(found, true)
    wide = overlap if predictions <= objects else overlap.T
    orders = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    best = max(float(sum(wide[row, column] for row, column in enumerate(order))) for order in orders)
    assert matched_iou(found, true) == pytest.approx(best / max(predictions, objects))


@given(st.permutations(range(4)), st.integers(0, 99))
def test_the_order_of_predictions_does_not_matter(order: list[int], seed: int) -> None:
    found, true = masks(4, seed), masks(3, seed + 100)
    assert matched_iou(found[order], true) == pytest.approx(matched_iou(found, true))


def test_misses_duplicates_and_nothing_cost() -> None:
    true = torch.zeros(2, 4, 4, dtype=torch.bool)
    true[0, :2], true[1, 2:] = True, True
    assert matched_iou(true, true) == 1
    assert matched_iou(true[:1], true) == 0.5
    assert matched_iou(true[[0, 1, 1, 1]], true) == 0.5
    assert matched_iou(true[:0], true) == 0
    assert matched_iou(torch.ones(1, 4, 4, dtype=torch.bool), true) == 0.25


def test_a_box_drawn_is_the_box() -> None:
    for true in coloured_shapes(4).masks:
        assert matched_iou(_drawn(boxes(true), (64, 64)), true) == 1  # squares fill their boxes


@pytest.mark.parametrize("make", [tiny_mask2former, tiny_deformable_detr])
def test_a_model_is_judged_scene_by_scene_and_its_mode_is_kept(make: object) -> None:
    model = make().train()  # type: ignore[operator]
    scenes = coloured_shapes(18)
    found = scene_ious(model, scenes)
    assert found.shape == (18,)
    assert model.training
    torch.testing.assert_close(scene_ious(model, scenes.take([17])), found[17:])
