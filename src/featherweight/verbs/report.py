"""report: one self-contained HTML page of a run."""

from __future__ import annotations

import json
from pathlib import Path

from featherweight.core.errors import CheckpointError
from featherweight.core.workspace import Workspace


def report(run: str | Path) -> Path:
    """Writes `report.html` into a run's folder and returns its path.

    Raises:
        CheckpointError: the folder holds no finished run.
    """
    from featherweight.report.page import render

    workspace = Workspace(Path(run))
    if not workspace.result.is_file():
        raise CheckpointError(str(run), "holds no finished run", "give the folder that fit or apply wrote")
    page = workspace.folder / "report.html"
    workspace.write(page, render(json.loads(workspace.result.read_text(encoding="utf-8"))))
    return page
