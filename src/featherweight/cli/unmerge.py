"""featherweight unmerge: takes a fine-tune out of a merged model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options
from featherweight.cli.merge import Sources


def unmerge(
    folder: Annotated[Path, typer.Argument(help="a folder that merge wrote")],
    names: Annotated[list[str], typer.Argument(help="fine-tunes to take out, by name, path or digest")],
    out: Annotated[Path, typer.Option(help="folder of the result")],
    mode: Annotated[
        str, typer.Option(help="rebuild: as if it had never been merged; subtract: the merged model minus its part")
    ] = "rebuild",
    base: Annotated[str | None, typer.Option(help="where the base is now, where it moved")] = None,
    source: Sources = None,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Takes fine-tunes out of a merged model, and measures what of them remains."""
    from featherweight.cli.merge import named
    from featherweight.cli.merge_table import print_unmerged
    from featherweight.cli.progress import progress
    from featherweight.verbs.unmerge import unmerge as run

    result = run(
        folder, names, out, mode=mode, base=base, sources=named(source), device=device, trust=trust,  # type: ignore[arg-type]
        progress=progress(quiet),
    )  # fmt: skip
    print_unmerged(result)
