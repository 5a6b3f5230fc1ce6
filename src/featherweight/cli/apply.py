"""featherweight apply: run one recipe exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def apply(
    recipe: Annotated[Path, typer.Argument(help="a recipe in YAML")],
    model: options.Model,
    out: Annotated[Path, typer.Option(help="folder of the run")],
    format: Annotated[
        str | None, typer.Option(help="gguf or hf; by default what the result's formats belong to")
    ] = None,
    text: options.Text = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    resume: options.Resume = False,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Applies every step of a recipe, exports the result and measures the file."""
    from featherweight.cli.progress import progress
    from featherweight.cli.tables import print_fit
    from featherweight.verbs.apply import apply as run
    from featherweight.verbs.prepare import Settings
    from featherweight.verbs.report import report

    settings = Settings(seed=seed, device=device)
    result = run(
        recipe, model, out, format=format, text=text, settings=settings, resume=resume, trust=trust,
        progress=progress(quiet),
    )  # fmt: skip
    print_fit(result.facts, result.folder, report(result.folder))
