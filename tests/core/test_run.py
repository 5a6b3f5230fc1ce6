"""What a step may use: random numbers by purpose, results that leave memory while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.recipe import Recipe
from featherweight.core.run import Rewrite, Run
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_recipe
from featherweight.core.technique import build
from featherweight.testing.tiny import tiny_tokens


def test_random_numbers_depend_on_the_seed_and_the_purpose() -> None:
    one, other = Run(seed=1), Run(seed=2)
    assert torch.equal(one.uniform("a", [4]), one.uniform("a", [4]))
    assert not torch.equal(one.uniform("a", [4]), one.uniform("b", [4]))
    assert not torch.equal(one.uniform("a", [4]), other.uniform("a", [4]))


def test_results_beyond_some_bytes_go_to_disk(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_folder(tiny)
    monkeypatch.setattr("featherweight.core.run.HELD_BYTES", 10_000)
    changed = {}
    for scratch in (None, tmp_path / "scratch"):
        result = Rewrite(model, Run(scratch=scratch))
        for name in model.architecture.linears():
            result[name] = model.tensor(name) * 2
        changed[scratch] = result.finish()
    spilled = list((tmp_path / "scratch").iterdir())
    assert len(spilled) > 1
    assert len({each.fingerprint for each in changed.values()}) == 1


def test_a_kept_step_leaves_nothing_in_scratch(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.core.run.HELD_BYTES", 10_000)
    recipe = Recipe((build("gptq", {"format": "Q4_0"}), build("magnitude", {"sparsity": 0.3})))
    run = Run(tiny_tokens(tiny, rows=4, length=16), scratch=tmp_path / "scratch")
    kept = apply_recipe(recipe, open_folder(tiny), run, tmp_path / "steps")
    in_memory = apply_recipe(recipe, open_folder(tiny), Run(run.calibration), None)
    assert kept[-1].model.fingerprint == in_memory[-1].model.fingerprint
    assert not any((tmp_path / "scratch").iterdir())
