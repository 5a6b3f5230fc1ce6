"""featherweight graft: a small classifier from a model's first blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def graft(
    donor: Annotated[str, typer.Argument(help="a model as for fit, or the folder of a Hugging Face encoder")],
    data: Annotated[Path, typer.Option(help='labelled texts: a .jsonl file with "text" and "label" a line')],
    out: Annotated[Path, typer.Option(help="folder of the classifier")],
    layers: Annotated[
        str | None, typer.Option(help="after how many blocks features are taken: 4,8,12; chosen by default")
    ] = None,
    most: Annotated[int, typer.Option(help="how many layers are chosen at most")] = 3,
    deepest: Annotated[float, typer.Option(help="share of the donor's blocks among which is chosen")] = 0.5,
    pool: Annotated[str, typer.Option(help="mean, last or first position")] = "mean",
    hidden: Annotated[str, typer.Option(help="widths of the head's hidden layers: 256 or 256,64")] = "256",
    steps: Annotated[int, typer.Option(help="updates of the head")] = 300,
    trunk_steps: Annotated[int, typer.Option(help="updates of trunk and head together afterwards; 0 = frozen")] = 0,
    length: Annotated[int, typer.Option(help="tokens of a text that are read")] = 128,
    trim: Annotated[
        bool, typer.Option("--trim-vocabulary", help="keep only embeddings of tokens that the texts use")
    ] = False,
    no_controls: Annotated[bool, typer.Option("--no-controls", help="measure the graft alone")] = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Trains a classifier on pooled features of a model's first blocks, and drops the rest."""
    from featherweight.cli.progress import progress
    from featherweight.cli.tables import print_graft
    from featherweight.verbs.graft import graft as run

    fields = {
        "layers": None if layers is None else _numbers("--layers", layers), "most": most, "deepest": deepest,
        "pool": pool, "hidden": _numbers("--hidden", hidden), "steps": steps, "trunk_steps": trunk_steps,
        "length": length,
    }  # fmt: skip
    result = run(
        donor, data, out, fields=fields, trim=trim, controls=not no_controls, seed=seed, device=device, trust=trust,
        progress=progress(quiet),
    )  # fmt: skip
    print_graft(result)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from featherweight.core.errors import RecipeError

    try:
        return tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        raise RecipeError(f"{option} {text!r}", "is no list of numbers", "write for example 4,8,12") from None
