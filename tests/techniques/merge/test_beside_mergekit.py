"""The same recipe through mergekit and through us: equal tensors. mergekit runs in its own environment, as a peer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import featherweight as fw
from featherweight.testing.tiny import tiny_model
from fine_tunes import fine_tunes

COMMAND = Path(__file__).parents[3] / ".venv-mergekit" / "bin" / "mergekit-yaml"
RECIPES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("linear", {}, {}),
    ("linear", {}, {"normalize": False}),
    ("task_arithmetic", {}, {"lambda": 0.5}),
    ("task_arithmetic", {}, {"normalize": True}),
    ("ties", {"density": 0.3}, {}),
    ("ties", {"density": 0.6}, {"normalize": False, "rescale": True, "int8_mask": True}),
    ("dare_linear", {"density": 1.0}, {}),
    ("dare_ties", {"density": 1.0}, {"normalize": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "own", "shared"), RECIPES)
def test_equal_tensors(
    models_folder: Path, tmp_path: Path, method: str, own: dict[str, Any], shared: dict[str, Any]
) -> None:
    if not COMMAND.is_file():
        pytest.skip("mergekit is not installed: python benchmarks/merge_peers.py makes .venv-mergekit")
    base = tiny_model(models_folder)
    models = fine_tunes(base, tmp_path)
    recipe = {
        "merge_method": method, "dtype": "float32", "parameters": shared,
        "models": [
            {"model": str(each), "parameters": {"weight": weight, **own}}
            for each, weight in zip(models, (0.5, 0.3, -0.4), strict=True)
        ],
        **({} if method == "linear" else {"base_model": str(base)}),
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = subprocess.run([COMMAND, path, tmp_path / "theirs", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    fw.merge_recipe(path, tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) <= 1e-6, name
