"""Commands that must be refused: status 2, one sentence, nothing written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]


@pytest.fixture
def refused(
    command: Callable[..., Any], unchanged: Callable[[Path], AbstractContextManager[None]], tmp_path: Path
) -> Refused:
    """Runs a command that must be refused, and returns the one sentence that it said."""

    def run(*arguments: object) -> str:
        with unchanged(tmp_path):
            ended = command(*arguments)
        assert ended.status == 2, ended
        assert ended.out == ""
        [line] = ended.err.splitlines()
        assert re.fullmatch(r"featherweight: .+: .+; .+[.?]", line), line
        return line

    return run


@pytest.fixture
def fit(refused: Refused, tmp_path: Path) -> Refused:
    """A fit that must be refused, into a folder that must not appear."""

    def run(model: object, *options: object) -> str:
        budget = () if "--memory" in options else ("--memory", "60%")
        said = refused("fit", model, *budget, "--out", tmp_path / "runs" / "out", "--quiet", *options)
        assert not (tmp_path / "runs").exists()
        return said

    return run


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))
