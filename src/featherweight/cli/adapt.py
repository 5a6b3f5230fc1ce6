"""featherweight adapt: train an adapter on chats or text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def adapt(
    model: options.Model,
    data: Annotated[Path, typer.Option(help="a .jsonl file of chats, prompts with completions or texts; or a .txt")],
    out: Annotated[
        Path | None, typer.Option(help="folder of the run and of the adapter; by default runs/DATA-METHOD")
    ] = None,
    method: Annotated[
        str, typer.Option(help="a technique that trains adapters, as `featherweight list` shows")
    ] = "lora",
    rank: Annotated[int | None, typer.Option(help="of the adapter")] = None,
    steps: Annotated[int | None, typer.Option(help="updates")] = None,
    epochs: Annotated[float | None, typer.Option(help="passes over the data, instead of a number of updates")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="the highest one")] = None,
    length: Annotated[int | None, typer.Option(help="tokens of a row")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, muon, adafactor, ...: see compare-optimizers")] = None,
    unfreeze: Annotated[int | None, typer.Option(help="updates from one quarter of the blocks to the next")] = None,
    stop_when_flat: Annotated[
        bool, typer.Option("--stop-when-flat", help="end when the updates left promise little")
    ] = False,
    place: Annotated[
        str | None, typer.Option(help="auto: probe all linears first, then train one adapter on the best")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="any other field of the method: batch=4, targets=[q_proj,v_proj]")
    ] = None,
    held_out: Annotated[float, typer.Option(help="share of the samples that the adapter is judged on")] = 0.1,
    other_rows: Annotated[
        int, typer.Option(min=2, help="rows of other text on which the adapted model is compared with the base")
    ] = 24,
    memory: Annotated[
        str | None, typer.Option(help="most memory that training may take, of a GPU its own: 2GB, 900MiB")
    ] = None,
    base_format: Annotated[
        list[str] | None, typer.Option(help="a format to which the frozen base may be rounded to fit: int8-g64")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="only say what memory training would take, and why")] = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    resume: options.Resume = False,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Trains an adapter on chats or text, and measures what it brings and what it costs."""
    from featherweight.cli.adapt_table import print_adapt
    from featherweight.cli.fields import parsed_fields
    from featherweight.cli.memory_table import print_memory_plan
    from featherweight.cli.progress import progress
    from featherweight.verbs.adapt import adapt as run
    from featherweight.verbs.adapt import plan_adapt
    from featherweight.verbs.report import report

    named = {
        "rank": rank, "steps": steps, "epochs": epochs, "learning_rate": learning_rate, "length": length,
        "optimizer": optimizer, "unfreeze": unfreeze, "stop_when_flat": stop_when_flat or None,
    }  # fmt: skip
    fields = {**{name: each for name, each in named.items() if each is not None}, **parsed_fields(set_ or [])}
    formats = base_format or []
    if plan:
        found = plan_adapt(
            model, data, method=method, fields=fields, memory=memory, base_formats=formats, place=place, device=device,
            trust=trust,
        )  # fmt: skip
        print_memory_plan(found)
        return
    result = run(
        model, data, out, method=method, fields=fields, place=place, held_out=held_out, memory=memory,
        base_formats=formats, other_rows=other_rows, seed=seed, device=device, resume=resume, trust=trust,
        progress=progress(quiet),
    )  # fmt: skip
    if result.facts:
        print_adapt(result.facts, result.folder, report(result.folder))
