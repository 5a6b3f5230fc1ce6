"""compare-optimizers end to end on a tiny model and on characters, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.errors import BudgetError, DataError, OutputError, RecipeError
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.compare_optimizers import compare_optimizers

QUICK = {"steps": 4, "rates": 2, "seeds": 2, "evaluations": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_model_and_a_text_are_compared_and_left_alone(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, tie_word_embeddings=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = open_folder(folder).fingerprint
    result = compare_optimizers(
        folder, names=["muon"], length=16, batch=2, memory="1GB", out=tmp_path / "trials.json",
        page=tmp_path / "page.html", **QUICK,
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert open_folder(folder).fingerprint == weights
    assert {each.optimizer for each in result.scores} == {"adamw", "muon"}
    assert {each.state for each in result.scores} == {each.total for each in result.states.values()}
    assert result.states["muon"].embeddings == 512 * 64 * 8
    assert result.choice is not None
    record = json.loads((tmp_path / "trials.json").read_text())
    assert len(record["trials"]) == 2 * 2 * 2
    assert record["verdict"]["winner"] == result.verdict.winner
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"Within the memory limit: {result.choice.optimizer}; " in page
    assert "Winner: " in page or "No winner: " in page
    assert 'id="chart-1"' in page


def test_the_command_ends_with_tables_that_fit_and_a_verdict(command: Callable[..., Any], tmp_path: Path) -> None:
    ended = command(
        "compare-optimizers", "--optimizers", "sgd", "--steps", 4, "--rates", 2, "--seeds", 2, "--length", 16,
        "--quiet", "--out", tmp_path / "t.json", "--page", tmp_path / "t.html",
    )  # fmt: skip
    assert ended.status == 0, ended
    assert "winner: " in ended.out
    assert "adamw" in ended.out
    rows = [line for line in ended.out.splitlines() if line.startswith(("optimizer ", "adamw ", "sgd "))]
    assert len(rows) == 6
    assert max(map(len, rows)) <= 80
    assert (tmp_path / "t.json").is_file()
    assert ended.out.splitlines()[-1] == f"picture {tmp_path / 't.html'}"
    assert (tmp_path / "t.html").is_file()


def test_bad_input_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'muon'"):
        compare_optimizers(names=["muonn"])
    with pytest.raises(BudgetError, match="less than any of them needs"):
        compare_optimizers(names=["muon"], memory="1kB")
    with pytest.raises(RecipeError, match="needs a model"):
        compare_optimizers(data="text.txt")
    with pytest.raises(RecipeError, match="seeds 0: is too few"):
        compare_optimizers(seeds=0)
    with pytest.raises(RecipeError, match="compares nothing"):
        compare_optimizers(factor=1.0)
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(OutputError, match="exists already"):
        compare_optimizers(out=tmp_path / "there.json")
    with pytest.raises(OutputError, match="exists already"):
        compare_optimizers(page=tmp_path / "there.json")
    with pytest.raises(DataError, match="does not exist"):
        compare_optimizers(tiny_model(tmp_path), tmp_path / "none.txt")
