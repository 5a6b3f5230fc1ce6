"""featherweight grid: backbone, objective or data, which is worth paying for?"""

from __future__ import annotations

from typing import Annotated

import typer

from featherweight.cli import options


def grid(
    source: Annotated[
        str | None,
        typer.Argument(help="signals (.csv, .npz, .ts), text (.txt, .jsonl), or a model as for fit; waves by default"),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="column or array of labels; one for each task")] = None,
    columns: Annotated[str | None, typer.Option(help="columns of the signal, with commas; all others if none")] = None,
    window: Annotated[int | None, typer.Option(help="cut a long recording, a row a moment, into windows")] = None,
    stride: Annotated[int | None, typer.Option(help="from a window to the next; the window by default")] = None,
    text: options.Text = None,
    memory: Annotated[str, typer.Option(help="share of a model's bytes that its skeletons keep")] = "80%",
    backbones: Annotated[
        str | None,
        typer.Option(help="state-space,convolution,attention; of a model depth,width,low-rank"),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            help="cpc,jepa,data2vec; of text next-token too; of a model next-token,logit-kl,hidden-states,cpc"
        ),
    ] = None,
    rows: Annotated[str | None, typer.Option(help="amounts of data, with commas: 300,6000 or 10%,100%")] = None,
    seeds: Annotated[int, typer.Option(help="of every cell")] = 2,
    steps: Annotated[int | None, typer.Option(help="updates of a cell: its budget")] = None,
    flops: Annotated[float | None, typer.Option(help="floating-point operations of a cell, instead of updates")] = None,
    batch: Annotated[int | None, typer.Option(help="rows an update")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="in the middle of those that are tried")] = None,
    rates: Annotated[int, typer.Option(help="learning rates that every cell is tuned over; 1 = no tuning")] = 1,
    factor: Annotated[float, typer.Option(help="from one rate to the next")] = 3.1623,
    head: Annotated[str, typer.Option(help="linear (frozen), mlp (frozen) or finetune")] = "linear",
    labels: Annotated[int | None, typer.Option(help="labelled rows that the head learns from; 300, text 2000")] = None,
    length: Annotated[int, typer.Option(help="tokens or characters of a row of text")] = 64,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a field of an objective: cpc.offset=8")] = None,
    cost_per_run: Annotated[float, typer.Option(help="of a training, in any unit")] = 1.0,
    cost_per_row: Annotated[float, typer.Option(help="of one more row of data, in the same unit")] = 0.0,
    control: Annotated[bool, typer.Option("--control", help="shuffle the samples of every signal")] = False,
    jobs: Annotated[int, typer.Option(help="processes that train at once")] = 1,
    out: options.Out = None,
    resume: options.Resume = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Trains backbones x objectives x amounts of data x seeds alike, and says which factor is worth paying for."""
    from featherweight.cli.fields import listed
    from featherweight.cli.grid_table import print_grid
    from featherweight.cli.progress import progress
    from featherweight.core.signal_files import Reading
    from featherweight.plan.spending import Prices
    from featherweight.verbs.grid import grid as run
    from featherweight.verbs.grid_settings import GridSettings, read_fields

    settings = GridSettings(
        backbones=listed(backbones), objectives=listed(objectives), rows=listed(rows), seeds=seeds, steps=steps,
        flops=None if flops is None else int(flops), batch=batch, learning_rate=learning_rate, rates=rates,
        factor=factor, labels=labels, fields=read_fields(set_ or []), memory=memory, length=length,
        head=head,  # type: ignore[arg-type]
        prices=Prices(cost_per_run, cost_per_row), seed=seed, device=device,
    )  # fmt: skip
    reading = Reading(tuple(label or ()), listed(columns), window, stride)
    result = run(
        source, settings=settings, reading=None if reading == Reading() else reading, text=text, control=control,
        out=out, resume=resume, jobs=jobs, trust=trust, progress=progress(quiet),
    )  # fmt: skip
    print_grid(result)
