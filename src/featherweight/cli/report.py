"""featherweight report: one self-contained HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="the folder of a run")]) -> None:
    """Writes report.html into the run's folder; it works offline."""
    from featherweight.verbs.report import report as make

    typer.echo(f"wrote {make(run)}")
