"""Adapters trained by another optimizer, unfrozen step by step, or stopped when flat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.errors import RecipeError
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.techniques.adapt.lora import Lora
from featherweight.testing.tiny import tiny_model, tiny_run
from featherweight.train.trainer import Hooks, Kept
from featherweight.train.unfreezing import block_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_model(tmp_path_factory.mktemp("model"), num_hidden_layers=4)


def trained(folder: Path, hooks: Hooks | None = None, kept: Kept | None = None, **fields: Any) -> tuple[Any, Any]:
    """The adapter's tensors and the course of its training."""
    model, run = open_folder(folder), tiny_run(folder)
    lora = Lora(batch=2, rank=4, learning_rate=1e-2, **fields)
    adapted = lora.attach(model, run)
    course = lora.train(adapted, lora.rows(model, run), run, hooks, kept)
    return {name: each.detach().clone() for name, each in adapted.named_parameters() if "lora_" in name}, course


def test_lower_blocks_join_later(folder: Path) -> None:
    # Four blocks in four stages: after five updates, two a stage, the lowest has not joined.
    found, _ = trained(folder, steps=7, unfreeze=2, hooks=Hooks(stop=lambda step, _: step == 4))
    moved = {block_of(name) for name, each in found.items() if "lora_B" in name and bool(each.any())}
    assert moved == {1, 2, 3}


@pytest.mark.parametrize("name", ["muon", "adafactor", "sgd_momentum"])
def test_another_optimizer_comes_to_another_adapter(folder: Path, name: str) -> None:
    one, course = trained(folder, steps=4, optimizer=name)
    two, _ = trained(folder, steps=4)
    assert course.steps == 4
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_it_ends_where_there_is_nothing_to_gain(folder: Path) -> None:
    _, course = trained(folder, steps=40, stop_when_flat=True, decay="none", clip=1e-9, optimizer="sgd")
    assert 8 < course.steps < 40


def test_a_resumed_training_with_stages_and_muon_is_the_same(folder: Path, tmp_path: Path) -> None:
    fields = {"steps": 7, "unfreeze": 2, "optimizer": "muon"}
    whole, _ = trained(folder, **fields)
    path = tmp_path / "state.pt"
    trained(folder, Hooks(stop=lambda step, _: step == 2), Kept(path, every=1), **fields)
    resumed, course = trained(folder, None, Kept(path, resume=True), **fields)
    assert course.steps == 7
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_what_cannot_be_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'adamw'"):
        build("lora", {"optimizer": "adamv"})
    with pytest.raises(RecipeError, match="no checkpoint can hold"):
        build("lora", {"optimizer": "galore"})
    with pytest.raises(RecipeError, match="never comes: there are 6 steps"):
        trained(folder, steps=6, unfreeze=2)
