"""featherweight compare-optimizers: which optimizer, at equal tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def compare_optimizers(
    model: Annotated[
        str | None, typer.Argument(help="a model as for fit; a small Llama of characters by default")
    ] = None,
    data: Annotated[str | None, typer.Option(help="text to train it on: a .txt or .jsonl file, or hf:DATASET")] = None,
    optimizers: Annotated[
        str, typer.Option(help="names, with commas; AdamW always takes part")
    ] = "adamw,muon,adafactor,sgd-momentum",
    steps: Annotated[int, typer.Option(help="updates of a trial")] = 120,
    rates: Annotated[int, typer.Option(help="learning rates of each, around where its own search would start")] = 5,
    factor: Annotated[float, typer.Option(help="from one rate to the next")] = 3.1623,
    seeds: Annotated[int, typer.Option(help="trials of each rate")] = 3,
    weight_decay: Annotated[float, typer.Option(help="of everything but norms and biases")] = 0.0,
    memory: Annotated[str | None, typer.Option(help="choose one whose state fits: 200MB")] = None,
    length: Annotated[int, typer.Option(help="tokens of a row")] = 48,
    batch: Annotated[int, typer.Option(help="rows a step")] = 8,
    out: Annotated[Path | None, typer.Option(help="a .json file for every trial")] = None,
    page: Annotated[Path | None, typer.Option(help="an HTML file for pictures of the trials")] = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Trains the same model with several optimizers, tuned equally, and says whether one wins."""
    from featherweight.cli.fields import listed
    from featherweight.cli.optimizer_table import print_comparison
    from featherweight.cli.progress import progress
    from featherweight.train.bake_off import Protocol
    from featherweight.verbs.compare_optimizers import compare_optimizers as run

    protocol = Protocol(steps=steps, rates=rates, factor=factor, seeds=seeds, weight_decay=weight_decay)
    result = run(
        model, data, names=listed(optimizers), protocol=protocol, memory=memory, length=length, batch=batch, out=out,
        page=page, trust=trust, progress=progress(quiet),
    )  # fmt: skip
    print_comparison(result, out, page)
