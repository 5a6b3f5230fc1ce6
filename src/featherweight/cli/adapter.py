"""featherweight adapter: where to put an adapter, and what can be done with a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options

app = typer.Typer(
    help="Shrinks, exports and inspects trained adapters, and finds a place for a new one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(help="a PEFT folder of LoRA or MatryoshkaLoRA, from here or elsewhere")]
AnyFolder = Annotated[Path, typer.Argument(help="a PEFT folder of LoRA, MatryoshkaLoRA or GPart")]
Base = Annotated[str | None, typer.Option(help="the model that it belongs to; by default the one that it names")]


@app.command()
def shrink(
    folder: Folder,
    energy: Annotated[float | None, typer.Option(help="share of the change's squared norm to keep: 0.95")] = None,
    parameters: Annotated[int | None, typer.Option(help="most parameters of the result")] = None,
    size: Annotated[str | None, typer.Option(help="most bytes of the result's file: 1MB")] = None,
    by_cost: Annotated[bool, typer.Option("--by-cost", help="rank by energy per parameter")] = False,
    out: Annotated[Path | None, typer.Option(help="folder of the result; by default FOLDER-shrunk")] = None,
) -> None:
    """Keeps an adapter's largest singular values, over all modules together: ranks that differ by module."""
    from featherweight.cli.adapter_tables import print_shrunk
    from featherweight.verbs.adapter_shrink import adapter_shrink

    print_shrunk(adapter_shrink(folder, out, energy=energy, parameters=parameters, size=size, by_cost=by_cost))


@app.command()
def export(
    folder: AnyFolder,
    rank: Annotated[int | None, typer.Option(help="rank of the result; all of it by default")] = None,
    energy: Annotated[
        float | None, typer.Option(help="instead of a rank: share of each module's squared norm to keep, 0.9")
    ] = None,
    format: Annotated[str, typer.Option(help="peft (a folder) or gguf (a file for llama.cpp)")] = "peft",
    model: Base = None,
    kind: Annotated[str, typer.Option("--type", help="numbers of a GGUF file: F16 or F32")] = "F16",
    out: Annotated[Path | None, typer.Option(help="folder or file; by default FOLDER-rank-N")] = None,
    quiet: options.Quiet = False,
) -> None:
    """Writes an adapter at a rank for PEFT, vLLM or llama.cpp, checks it, and says what it lost."""
    from featherweight.cli.adapter_tables import print_exported
    from featherweight.cli.progress import progress
    from featherweight.verbs.adapter_export import adapter_export

    exported = adapter_export(
        folder, out, rank=rank, energy=energy, format=format, model=model, kind=kind, progress=progress(quiet)
    )
    print_exported(exported)


@app.command()
def inspect(
    folder: AnyFolder,
    data: Annotated[Path | None, typer.Option(help="held-out .jsonl or .txt, for the loss at each rank")] = None,
    model: Base = None,
    rows: Annotated[int, typer.Option(help="most rows of data that are measured")] = 32,
    length: Annotated[int, typer.Option(help="tokens of a row")] = 512,
    page: Annotated[Path | None, typer.Option(help="an HTML file for the pictures")] = None,
    device: options.Device = "cpu",
) -> None:
    """Shows ranks, energy and size, and with data the loss at each rank and the area under that curve."""
    from featherweight.cli.adapter_tables import print_inspected
    from featherweight.verbs.adapter_inspect import adapter_inspect

    print_inspected(adapter_inspect(folder, data=data, model=model, rows=rows, length=length, page=page, device=device))


@app.command()
def place(
    model: options.Model,
    data: Annotated[Path, typer.Option(help="a .jsonl file of chats, prompts with completions or texts; or a .txt")],
    score: Annotated[str, typer.Option(help="expected, projected or fisher")] = "expected",
    start: Annotated[str, typer.Option(help="how A would be drawn: gaussian or kaiming")] = "gaussian",
    rank: Annotated[int, typer.Option(help="of the adapter")] = 16,
    samples: Annotated[int, typer.Option(help="how many are read")] = 32,
    length: Annotated[int, typer.Option(help="tokens of a sample")] = 512,
    page: Annotated[Path | None, typer.Option(help="an HTML file for the picture")] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Scores every linear by the energy of its adapter's first gradient: where one would learn most."""
    from featherweight.cli.adapter_tables import print_placed
    from featherweight.cli.progress import progress
    from featherweight.verbs.adapter_place import adapter_place

    placed = adapter_place(
        model, data, score=score, start=start, rank=rank, samples=samples, length=length, page=page, seed=seed,
        device=device, trust=trust, progress=progress(quiet),
    )  # fmt: skip
    print_placed(placed)
