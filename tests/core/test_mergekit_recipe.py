"""mergekit recipes: what is read of them, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from featherweight.core.errors import DataError, RecipeError
from featherweight.core.mergekit_recipe import read_mergekit

TWO = [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b", "parameters": {"weight": 0.3}}]


def recipe(folder: Path, **changes: Any) -> Path:
    data = {"merge_method": "ties", "base_model": "base", "models": TWO, **changes}
    path = folder / "mergekit.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "method", "fields"),
    [
        ({}, "ties", {"weight": [0.5, 0.3], "density": [1.0, 1.0]}),
        (
            {"parameters": {"density": 0.2, "normalize": False, "lambda": 0.7, "int8_mask": True}, "dtype": "float32"},
            "ties",
            {"weight": [0.5, 0.3], "density": [0.2, 0.2], "normalize": False, "lambda_": 0.7, "dtype": "float32"},
        ),
        (
            {"merge_method": "dare_ties", "parameters": {"rescale": False}, "out_dtype": "bfloat16"},
            "dare",
            {
                "variant": "ties", "rescale": False, "weight": [0.5, 0.3], "density": [1.0, 1.0], "dtype": "bfloat16",
            },
        ),
        ({"merge_method": "dare_linear"}, "dare", {"variant": "linear", "weight": [0.5, 0.3], "density": [1.0, 1.0]}),
        ({"merge_method": "task_arithmetic", "parameters": {"density": 1}}, "task-arithmetic", {"weight": [0.5, 0.3]}),
        ({"models": [{"model": "base"}, *TWO], "tokenizer_source": "base"}, "ties",
         {"weight": [0.5, 0.3], "density": [1.0, 1.0]}),
    ],
)  # fmt: skip
def test_read(tmp_path: Path, changes: dict[str, Any], method: str, fields: dict[str, Any]) -> None:
    found = read_mergekit(recipe(tmp_path, **changes))
    assert (found.base, found.models, found.method) == ("base", ("a", "b"), method)
    assert found.fields == fields


def test_linear_needs_no_base(tmp_path: Path) -> None:
    found = read_mergekit(recipe(tmp_path, merge_method="linear", base_model=None))
    assert (found.base, found.models, found.fields) == ("a", ("a", "b"), {"weight": [0.5, 0.3]})
    listed = [{"model": "base", "parameters": {"weight": 1}}, *TWO]
    found = read_mergekit(recipe(tmp_path, merge_method="linear", models=listed))
    assert (found.base, found.models, found.fields) == ("base", ("base", "a", "b"), {"weight": [1.0, 0.5, 0.3]})


def test_adapters(tmp_path: Path) -> None:
    models = [{"model": "base+lora", "parameters": {"weight": 1}}, TWO[1]]
    assert read_mergekit(recipe(tmp_path, models=models)).models == ("lora", "b")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"merge_method": "slerp"}, "merge_method slerp: has no counterpart here; use one of linear, task_arithmetic"),
        ({"slices": []}, "slices: cannot be expressed here; leave it out, or run the recipe in mergekit"),
        ({"modules": {}}, "modules: cannot be expressed here"),
        ({"chat_template": "chatml"}, "chat_template: cannot be expressed here"),
        ({"tokenizer_source": "union"}, "tokenizer_source: cannot be expressed: tokenizers are not merged"),
        ({"base_model": None}, "base_model: is missing"),
        ({"models": None}, "models: are missing: there is nothing to merge"),
        ({"models": []}, "models: are missing"),
        ({"models": ["a"]}, "names no model"),
        ({"models": [{"model": "a"}]}, "a: weight: is missing; give every model one, as mergekit wants it"),
        ({"models": [{"model": "a", "parameters": {"weight": [0, 1]}}]}, "weight: changes over layers or modules"),
        ({"models": [{"model": "a", "parameters": {"weight": "much"}}]}, "weight = 'much': is no number"),
        ({"models": [{"model": "a", "parameters": {"weight": 1, "gamma": 1}}]}, "a: gamma: is no parameter of a model"),
        ({"models": [{"model": "a", "layer_range": [0, 2]}]}, "models: layer_range: cannot be expressed here"),
        ({"models": [{"model": "other+lora", "parameters": {"weight": 1}}]}, "puts an adapter on another model"),
        ({"parameters": {"epsilon": 0.1}}, "parameters: epsilon: is none of ties"),
        ({"parameters": {"normalize": 1}}, "parameters: normalize = 1: is no truth value"),
        ({"parameters": {"normalize": [{"filter": "mlp", "value": True}]}}, "changes over layers or modules"),
        ({"dtype": "int8"}, "dtype int8: is no number type of a result"),
        ({"merge_method": "linear"}, "base_model: has no weight, as linear gives every model one"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_mergekit(recipe(tmp_path, **changes))
    assert said in str(refused.value)


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_mergekit(tmp_path / "none.yaml")
    path = tmp_path / "other.yaml"
    for text, said in (
        ("steps: []", "has no merge_method"),
        ("a: [", "is not valid YAML"),
        ("- 1", "has no merge_method"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError, match=said):
            read_mergekit(path)
