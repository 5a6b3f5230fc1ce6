"""Recipes: YAML and back, and every wrong way to write one."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.core.errors import RecipeError
from featherweight.core.recipe import Recipe
from featherweight.core.technique import build, find, techniques


def test_round_trip() -> None:
    recipe = Recipe((build("mixed-precision", {"memory": "90MB"}), build("gptq", {"damping": 0.02}), build("rtn", {})))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()).digest == recipe.digest


def test_every_technique_round_trips_with_its_defaults() -> None:
    for name in techniques():
        recipe = Recipe((build(name, {}),))
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_only_changed_fields_are_written() -> None:
    assert Recipe((build("gptq", {"damping": 0.02}), build("rtn", {}))).to_dict() == {
        "steps": [{"gptq": {"damping": 0.02}}, "rtn"]
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps:\n  - gtpq\n", "'gptq'"),
        ("steps:\n  - gptq: {dampening: 1}\n", "'damping'"),
        ("steps:\n  - gptq: {damping: -1}\n", r"gptq\.damping = -1"),
        ("steps:\n  - gptq: {format: Q4_9}\n", "gptq.format"),
        ("steps:\n  - gptq: 7\n", "instead of fields"),
        ("steps:\n  - {gptq: {}, rtn: {}}\n", "is no technique"),
        ("steps: gptq\n", "no list called 'steps'"),
        ("- gptq\n", "no list called 'steps'"),
        ("steps: []\nname: mine\n", "unknown key 'name'"),
        ("steps: [\n", "not valid YAML"),
        ("steps:\n  - mixed-precision: {memory: 90XB}\n", "XB"),
    ],
)
def test_wrong_recipes_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Recipe.from_yaml(text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        Recipe.read(tmp_path / "recipe.yaml")


def test_underscores_count_as_hyphens() -> None:
    assert find("mixed_precision") is find("mixed-precision")
