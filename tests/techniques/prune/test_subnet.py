"""The subnet step: conformance, prefixes in order of importance, controls, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.errors import RecipeError, SliceError
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.export.gguf import as_stored, write_gguf
from featherweight.export.reload import check_reload
from featherweight.measure.ordering import block_importance, importance_order, random_order
from featherweight.techniques.prune.subnet import Subnet
from featherweight.testing.conformance import check_technique
from featherweight.testing.tiny import tiny_model, tiny_run


@pytest.fixture
def model(models_folder: Path) -> Model:
    return open_folder(tiny_model(models_folder, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4))


@pytest.fixture
def run(model: Model) -> Run:
    return tiny_run(model.folder)


def test_conformance() -> None:
    check_technique(Subnet, Subnet(blocks=2, ffn=128, groups=1, hidden=32, head_dim=16))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"blocks": 3}, {"num_hidden_layers": 3}),
        ({"ffn": 96}, {"intermediate_size": 96}),
        ({"groups": 1}, {"num_key_value_heads": 1, "num_attention_heads": 2}),
        ({"head_dim": 16}, {"head_dim": 16}),
        ({"hidden": 40}, {"hidden_size": 40}),
    ],
)
def test_sizes(model: Model, run: Run, setting: dict[str, Any], expected: dict[str, Any]) -> None:
    child = Subnet(**setting).apply(model, run)
    assert {name: child.settings[name] for name in expected} == expected
    assert child.parameters < model.parameters


def test_widths_are_nested(model: Model, run: Run) -> None:
    """Every smaller width is a prefix of every larger one, so a search over prefixes means the same models."""
    name = "model.layers.0.mlp.up_proj.weight"
    wide, narrow = (Subnet(ffn=size).apply(model, run).tensor(name) for size in (192, 64))
    assert torch.equal(wide[:64], narrow)


def test_the_least_important_blocks_go(model: Model, run: Run) -> None:
    order = importance_order(model, run)
    assert list(order.blocks) == block_importance(model, run).argsort(descending=True).tolist()
    child = Subnet(blocks=2).apply(model, run)
    for new, old in enumerate(sorted(order.blocks[:2])):
        name = "mlp.up_proj.weight"
        assert torch.equal(child.tensor(f"model.layers.{new}.{name}"), model.tensor(f"model.layers.{old}.{name}"))


def test_the_order_of_importance_and_its_controls(model: Model, run: Run) -> None:
    order = importance_order(model, run)
    assert sorted(order.hidden) == list(range(64))
    assert order.reversed().ffn[1] == [*reversed(order.ffn[1])]
    assert random_order(model, run) == random_order(model, run)
    children = {
        kind: Subnet(ffn=64, order=kind).apply(model, run).fingerprint for kind in ("importance", "random", "reversed")
    }
    assert len(set(children.values())) == 3


def test_it_runs_in_llama_cpp(model: Model, run: Run, tmp_path: Path) -> None:
    """Another rotary base, another divisor of the scores, plain slices of the norms: the runtime computes the same."""
    child = as_stored(Subnet(blocks=3, ffn=128, groups=2, head_dim=16, hidden=32).apply(model, run))
    write_gguf(child, tmp_path / "model.gguf")
    assert check_reload(child, tmp_path / "model.gguf").difference < 1e-3


def test_more_than_there_is_is_refused(model: Model, run: Run) -> None:
    with pytest.raises(RecipeError, match=r"subnet.ffn = 512: the model has 256; use 1 to 256"):
        Subnet(ffn=512).apply(model, run)
    with pytest.raises(SliceError, match="cannot be loaded by stock"):
        Subnet(hidden=33, groups=3).apply(open_folder(model.folder), run)


def test_it_does_not_come_after_rounding() -> None:
    with pytest.raises(RecipeError, match="recipe step subnet: comes after gptq: another order of channels"):
        Recipe.from_yaml("steps:\n  - gptq: {format: Q8_0}\n  - subnet: {ffn: 64}")
