"""Removal: what cutting blocks, channels and groups is expected to cost, before anything is cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from featherweight.core.architecture import supported
from featherweight.core.data import TokenSet
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.store import Store
from featherweight.measure.removal import Removal, removals
from featherweight.testing.tiny import tiny_model, tiny_tokens

SHARES = (0.9, 0.75, 0.5, 0.25)


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return open_folder(trained)


@pytest.fixture(scope="module")
def tokens(trained: Path) -> TokenSet:
    return tiny_tokens(trained, rows=8, length=48)


@pytest.fixture(scope="module")
def found(model: Model, tokens: TokenSet) -> Removal:
    return removals(model, tokens, SHARES, Run())


def test_more_removed_costs_more(found: Removal) -> None:
    costs = [found["ffn"][str(share)] for share in SHARES]
    assert all(0 < less < more for less, more in itertools.pairwise(costs))


def test_every_block_has_its_price(found: Removal, model: Model) -> None:
    assert len(found["blocks"]) == model.architecture.blocks
    assert min(found["blocks"]) > 0


def test_nothing_removed_costs_nothing(model: Model, tokens: TokenSet) -> None:
    assert removals(model, tokens, [1.0], Run())["ffn"]["1.0"] == 0


def test_a_block_that_does_nothing_is_free(model: Model, tokens: TokenSet, found: Removal) -> None:
    """One whose two output matrices are zero leaves the hidden states as they are."""
    outputs = [f"model.layers.0.{part}.weight" for part in ("self_attn.o_proj", "mlp.down_proj")]
    idle = model.with_changes({name: 0 * model.tensor(name) for name in outputs})
    costs = removals(idle, tokens, SHARES, Run())["blocks"]
    assert costs[0] == 0
    assert costs[1] > 0


def test_a_dead_channel_goes_first(model: Model, tokens: TokenSet) -> None:
    """With a quarter of each block's channels silent, three quarters are kept at no cost."""
    changes = {}
    for block in range(model.architecture.blocks):
        name = model.architecture.linear(block, "mlp.down_proj")
        weight = model.tensor(name).clone()
        weight[:, ::4] = 0
        changes[name] = weight
    costs = removals(model.with_changes(changes), tokens, (0.75, 0.5), Run())["ffn"]
    assert costs["0.75"] == 0
    assert costs["0.5"] > 0


def test_groups(models_folder: Path) -> None:
    folder = tiny_model(models_folder, num_key_value_heads=4, head_dim=16)
    found = removals(open_folder(folder), tiny_tokens(folder, rows=4), SHARES, Run())
    assert list(found["groups"]) == ["1", "2", "3"]
    assert found["groups"]["1"] > found["groups"]["2"] > found["groups"]["3"] > 0


def test_kept(model: Model, tokens: TokenSet, tmp_path: Path, found: Removal) -> None:
    first, again = Store(tmp_path), Store(tmp_path)
    assert removals(model, tokens, SHARES, Run(store=first)) == found
    assert removals(model, tokens, SHARES, Run(store=again)) == found
    assert (first.made, again.made) == (2, 0)  # the prices and the gradients


@pytest.mark.parametrize("model_type", supported())
def test_every_architecture(model_type: str, models_folder: Path) -> None:
    folder = tiny_model(models_folder, model_type)
    found = removals(open_folder(folder), tiny_tokens(folder, rows=4, length=24), SHARES, Run())
    assert len(found["blocks"]) == 2
    assert found["ffn"]["0.25"] > found["ffn"]["0.9"]
