"""featherweight audit-component: how a prompt log uses a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def audit_component(
    model: Annotated[str, typer.Argument(help="a Hugging Face folder: CLIP-style, a sentence encoder, ...")],
    prompts: Annotated[Path, typer.Option(help="the log: one prompt a line, or .jsonl with 'prompt'")],
    component: Annotated[str, typer.Option(help="the encoder's place, such as text_model; . is the whole model")] = ".",
    truncated: Annotated[float, typer.Option(min=0, max=1, help="share of prompts that may be cut")] = 0.01,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the numbers")] = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measures length, vocabulary, positions and outputs of a text encoder under a real prompt log."""
    from featherweight.cli.component_tables import print_audit
    from featherweight.cli.progress import progress
    from featherweight.verbs.audit_component import audit_component as run

    print_audit(run(model, component, prompts, truncated=truncated, out=out, seed=seed, progress=progress(quiet)))
