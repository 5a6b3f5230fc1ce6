"""Training on scenes: what moves and what does not, the same twice, and a detector's loss."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from featherweight.core.errors import MissingExtra, TrainingError
from featherweight.models.deformable import head_names
from featherweight.testing.segmenters import coloured_shapes, tiny_deformable_detr, tiny_mask2former
from featherweight.train.loop import Schedule
from featherweight.train.segmentation import Tuned, scene_inputs, train_on_scenes, train_only

SCENES = coloured_shapes(6)
torch.set_num_threads(1)


def train(model: Any, steps: int = 2, seed: int = 0) -> list[float]:
    return train_on_scenes(model, SCENES, Schedule(steps, 1e-3), 3, torch.Generator().manual_seed(seed))


def test_frozen_batch_norms_keep_their_running_means() -> None:
    model = tiny_mask2former(backbone="resnet")
    train_only(model, head_names(model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    train(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(tuple(head_names(model))) for name in moved)


def test_trained_batch_norms_learn_theirs() -> None:
    model = tiny_mask2former(backbone="resnet")
    before = {name: value.clone() for name, value in model.named_buffers() if "running_mean" in name}
    train(model)
    assert all(not torch.equal(value, before[name]) for name, value in model.named_buffers() if name in before)


def test_the_same_seed_trains_the_same_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, second = (train(tiny_mask2former()) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert first == second
    assert train(tiny_mask2former(), seed=1) != first


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(TrainingError, match="has nothing to train"):
        train(tiny_mask2former().requires_grad_(False))


def test_a_detector_says_that_it_needs_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match="pip install pillow"):
        scene_inputs(tiny_deformable_detr(), SCENES)
    assert "mask_labels" in scene_inputs(tiny_mask2former(), SCENES)


def test_a_detector_is_given_boxes() -> None:
    pytest.importorskip("PIL", reason="needs the package pillow")
    model = tiny_deformable_detr()
    assert scene_inputs(model, SCENES)["labels"][0]["boxes"].shape == (len(SCENES.masks[0]), 4)
    losses = train(model, 8)
    assert losses[-1] < losses[0]


def test_how_much_is_tuned_is_told() -> None:
    assert str(Tuned(30, 20, 1000)) == "50 of 1,000 parameters are tuned (5.00%)"
    assert Tuned(30, 0, 1000, whole=True).share == 1
