"""report: one self-contained HTML page of a run."""

from __future__ import annotations

import json
from pathlib import Path

from featherweight.core.errors import CheckpointError
from featherweight.core.workspace import Workspace
from featherweight.measure.safety_receipt import answers_in


def report(run: str | Path) -> Path:
    """Writes `report.html` into a run's folder and returns its path.

    Raises:
        CheckpointError: the folder holds no finished run.
    """
    from featherweight.report import adapter_page, grid_page, safety_page
    from featherweight.report import page as run_page

    workspace = Workspace(Path(run))
    if not workspace.result.is_file():
        raise CheckpointError(str(run), "holds no finished run", "give the folder that fit, apply, adapt or grid wrote")
    facts = json.loads(workspace.result.read_text(encoding="utf-8"))
    page = workspace.folder / "report.html"
    if facts.get("kind") == "safety":
        workspace.write(page, safety_page.render(facts, answers_in(workspace.ledger())))
        return page
    render = {"adapter": adapter_page.render, "grid": grid_page.render}.get(facts.get("kind"), run_page.render)
    workspace.write(page, render(facts))
    return page
