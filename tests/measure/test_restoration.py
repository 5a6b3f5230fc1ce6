"""Restoration: putting the damaged layer back gives exactly nothing, and each variant is the model it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.layer_models import damaged, tiny_rows

from featherweight.core.architecture import EMBEDDING, FINAL_NORM, HEAD
from featherweight.core.data import TokenSet
from featherweight.core.errors import CheckpointError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.quality import compare
from featherweight.measure.restoration import LAST, restoration
from featherweight.techniques.prune.depth import Depth
from featherweight.techniques.prune.width import Width
from featherweight.testing.tiny import tiny_model, tiny_run


@pytest.fixture(scope="module")
def deep(models_folder: Path) -> Path:
    return tiny_model(models_folder, num_hidden_layers=3)


def test_equal_models_have_nothing_to_restore(any_architecture: Path) -> None:
    model = open_folder(any_architecture)
    found = restoration(model, open_folder(any_architecture), tiny_rows(any_architecture, 2), Run())
    assert float(found.child.max()) == 0
    assert all(float(each.max()) == 0 for each in found.restored.values())
    assert list(found.restored) == ["embedding", "block 0", "block 1", LAST]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (EMBEDDING, "embedding"), ("model.layers.0.*", "block 0"), ("model.layers.2.*", "block 2"), (HEAD, LAST),
    ],
)  # fmt: skip
def test_the_damaged_layer_and_no_other_restores_all(deep: Path, pattern: str, name: str) -> None:
    model = open_folder(deep)
    found = restoration(model, damaged(model, pattern), tiny_rows(deep, 3), Run())
    whole, gains = found.whole.mean, found.gains()
    assert whole > 0
    assert float(found.restored[name].max()) == 0
    assert gains[name].mean == pytest.approx(whole)
    assert all(torch.equal(each, found.child) for other, each in found.restored.items() if other != name)


def test_every_variant_is_the_child_with_that_layer_of_the_parent(deep: Path) -> None:
    model, rows = open_folder(deep), tiny_rows(deep, 3)
    child = damaged(model, "*", bits=3)
    found = restoration(model, child, rows, Run())
    tokens = TokenSet(rows.ids, ("prose",) * 3, (0, 1, 2))
    names = {
        "embedding": [EMBEDDING], LAST: [FINAL_NORM, HEAD],
        **{f"block {index}": [each for each in model.entries if f".{index}." in each] for index in range(3)},
    }  # fmt: skip
    for name, tensors in names.items():
        restored: Model = child.with_changes({each: model.entries[each] for each in tensors})
        expected = torch.from_numpy(compare(model, restored, tokens, Run()).kl)[rows.real[:, :-1]]
        assert torch.allclose(found.restored[name], expected.double(), atol=1e-5), name


def test_a_child_with_fewer_channels_can_be_restored_and_one_with_fewer_blocks_not(deep: Path) -> None:
    model, rows = open_folder(deep), tiny_rows(deep, 2)
    found = restoration(model, Width(ffn=0.5).apply(model, tiny_run(deep)), rows, Run())
    assert float(found.child.max()) > 0
    assert len(found.restored) == 5
    with pytest.raises(CheckpointError, match="cannot take the place"):
        restoration(model, Depth(blocks=(1,)).apply(model, tiny_run(deep)), rows, Run())
