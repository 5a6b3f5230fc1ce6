"""featherweight distill-component: a small student in the place of a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featherweight.cli import options


def distill_component(
    host: Annotated[str, typer.Argument(help="a Hugging Face folder: CLIP-style, a sentence encoder, ...")],
    prompts: Annotated[Path, typer.Option(help="the log: one prompt a line, or .jsonl with 'prompt'")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    component: Annotated[str, typer.Option(help="the encoder's place, such as text_model; . is the whole model")] = ".",
    set_: Annotated[list[str] | None, typer.Option("--set", help="a field of the student: width=256")] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Distils a text encoder on a prompt log, splices the student in and reports held-out words apart."""
    from featherweight.cli.component_tables import print_distilled
    from featherweight.cli.progress import progress
    from featherweight.verbs.distill_component import distill_component as run
    from featherweight.verbs.distill_component import read_settings

    settings: Any = read_settings(set_ or [])
    print_distilled(run(host, component, prompts, out, settings=settings, seed=seed, progress=progress(quiet)))
