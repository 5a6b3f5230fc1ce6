"""compare-optimizers with what it must refuse: one sentence, status 2, nothing written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--optimizers", "muonn"], "optimizer 'muonn': is unknown; did you mean 'muon'"),
        (["--memory", "1kB"], "is less than any of them needs; give "),
        (["--memory", "much"], "memory"),
        (["--data", "text.txt"], "needs a model to read it"),
        (["--seeds", "0"], "seeds 0: is too few"),
        (["--factor", "1"], "compares nothing"),
    ],
)
def test_a_bad_option(refused: Refused, tmp_path: Path, arguments: list[str], said: str) -> None:
    assert said in refused("compare-optimizers", *arguments, "--out", tmp_path / "trials.json", "--quiet")


def test_a_package_that_is_not_there(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    said = refused("compare-optimizers", "--optimizers", "lion", "--quiet")
    assert "install it with: pip install 'featherweight[optimizers]'" in said


def test_a_file_that_is_there(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "trials.json").write_text("{}")
    assert "exists already" in refused("compare-optimizers", "--out", tmp_path / "trials.json", "--quiet")
