"""featherweight fit: make a model that meets a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from featherweight.cli import options


def fit(
    model: options.Model,
    memory: options.Memory = None,
    quality: options.Quality = None,
    latency: options.Latency = None,
    resident: options.Resident = None,
    context: options.Context = 512,
    threads: options.Threads = None,
    out: options.Out = None,
    format: options.Format = "gguf",
    text: options.Text = None,
    trials: Annotated[int, typer.Option(min=0, help="variations to try around the best candidate")] = 1,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    search: Annotated[
        str, typer.Option(help="planner; joint (sizes and formats in one search); sequential (its control)")
    ] = "planner",
    search_rounds: Annotated[int, typer.Option(min=1, help="turns of a joint or sequential search")] = 10,
    space: Annotated[
        list[str] | None, typer.Option(help="sizes to search instead of the usual ones: ffn=768,1152,1536")
    ] = None,
    reuse: options.Reuse = None,
    resume: options.Resume = False,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="first run everything on a tiny random model")] = False,
    heal: Annotated[float, typer.Option(help="minutes to train the best candidate for, inside its bytes")] = 0,
    tasks: Annotated[str | None, typer.Option(help="lm-evaluation-harness tasks to run at the end: a,b")] = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Finds, makes, exports and measures a smaller model that meets a budget."""
    from featherweight.cli.progress import progress
    from featherweight.cli.tables import print_fit
    from featherweight.core.budget import Budget
    from featherweight.plan.joint_space import check_mode, parse_sizes
    from featherweight.verbs.fit import fit as run
    from featherweight.verbs.prepare import Settings
    from featherweight.verbs.report import report

    budget = Budget(
        memory=memory, quality=quality, latency=latency, resident=resident, context=context, threads=threads
    )
    check_mode(search)
    result = run(
        model,
        budget,
        out,
        format=format,
        text=text,
        settings=Settings(
            trials=trials,
            seed=seed,
            device=device,
            search=search,  # type: ignore[arg-type]
            search_rounds=search_rounds,
            search_space=parse_sizes(space or []),
        ),
        reuse=reuse,
        resume=resume,
        rehearsal=rehearse,
        tasks=tasks.split(",") if tasks else [],
        heal=heal,
        trust=trust,
        progress=progress(quiet),
    )
    print_fit(result.facts, result.folder, report(result.folder))
    raise typer.Exit(0 if result.met else 1)
