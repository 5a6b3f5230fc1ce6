"""Depth pruning: which blocks go, and that they are gone exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.architecture import supported
from featherweight.core.errors import RecipeError
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.slicing import Keep, slice_model
from featherweight.core.source import open_folder
from featherweight.measure.ordering import block_importance
from featherweight.techniques.prune.depth import Depth
from featherweight.testing.tiny import tiny_model, tiny_run

BLOCKS = 4


@pytest.fixture(params=["llama", "gemma3_text"])
def folder(request: pytest.FixtureRequest, models_folder: Path) -> Path:
    return tiny_model(models_folder, request.param, num_hidden_layers=BLOCKS)


def without(model: Model, *blocks: int) -> str:
    return slice_model(model, Keep(blocks=[each for each in range(BLOCKS) if each not in blocks])).fingerprint


@pytest.mark.parametrize("model_type", supported())
@pytest.mark.parametrize("idle", [0, 2])
def test_a_block_that_does_nothing_is_dropped_and_not_missed(models_folder: Path, model_type: str, idle: int) -> None:
    path = tiny_model(models_folder, model_type, num_hidden_layers=BLOCKS)
    model, run = open_folder(path), tiny_run(path)
    names = [model.architecture.linear(idle, module) for module in ("self_attn.o_proj", "mlp.down_proj")]
    model = model.with_changes({name: torch.zeros_like(model.stored(name)) for name in names})
    pruned = Depth(drop=1).apply(model, run)
    assert pruned.fingerprint == without(model, idle)
    ids = run.tokens("test").ids
    with torch.inference_mode():
        before, after = (each.module()(ids, use_cache=False).logits for each in (model, pruned))
    assert (before - after).abs().max() <= 1e-5


def test_importance_is_one_minus_the_cosine_of_hidden_states(folder: Path) -> None:
    model, run = open_folder(folder), tiny_run(folder)
    module, states = model.module(), []

    def note(_: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        states.append((args[0], output))

    for block in module.model.layers:
        block.register_forward_hook(note)
    with torch.inference_mode():
        module(run.tokens("test").ids, use_cache=False)
    cosines = [torch.nn.functional.cosine_similarity(before, after, dim=-1).mean() for before, after in states]
    torch.testing.assert_close(block_importance(model, run), 1 - torch.stack(cosines), rtol=1e-4, atol=1e-6)


def test_the_lowest_go_and_reversed_the_highest(folder: Path) -> None:
    model, run = open_folder(folder), tiny_run(folder)
    order = block_importance(model, run).argsort().tolist()
    assert Depth(drop=2).apply(model, run).fingerprint == without(model, *order[:2])
    assert Depth(drop=2, score="reversed").apply(model, run).fingerprint == without(model, *order[-2:])


def test_ends_can_be_kept(folder: Path) -> None:
    model, run = open_folder(folder), tiny_run(folder)
    assert Depth(drop=2, keep_first=1, keep_last=1).apply(model, run).fingerprint == without(model, 1, 2)
    assert Depth(drop=2, keep_first=2).apply(model, run).fingerprint == without(model, 2, 3)


def test_named_blocks_need_no_text(folder: Path) -> None:
    model = open_folder(folder)
    assert Depth(blocks=(0, 3)).apply(model, Run()).fingerprint == without(model, 0, 3)


def test_random_blocks_depend_on_the_seed_only(folder: Path) -> None:
    model = open_folder(folder)
    prints = [Depth(drop=2, score="random").apply(model, Run(seed=seed)).fingerprint for seed in (0, 0, 1, 2, 3)]
    assert prints[0] == prints[1]
    assert len(set(prints)) > 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Depth(drop=BLOCKS), "one must stay"),
        (Depth(drop=3, keep_first=1, keep_last=1), "only 2 of the 4 blocks"),
        (Depth(drop=1, keep_first=3, keep_last=3), "only 0 of the 4 blocks"),
        (Depth(blocks=(1, 4)), "has no block 4"),
    ],
)
def test_impossible_drops_are_refused(folder: Path, setting: Depth, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        setting.apply(open_folder(folder), tiny_run(folder))


def test_importances_are_reported(folder: Path) -> None:
    said: list[str] = []

    class Listening(Progress):
        def say(self, message: str) -> None:
            said.append(message)

    run = tiny_run(folder)
    run.progress = Listening()
    Depth().apply(open_folder(folder), run)
    assert said[0].startswith("block importance: ")
