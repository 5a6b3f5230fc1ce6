"""featherweight plan: what fit would try, and why; writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def plan(
    model: options.Model,
    memory: options.Memory = None,
    quality: options.Quality = None,
    latency: options.Latency = None,
    resident: options.Resident = None,
    context: options.Context = 512,
    threads: options.Threads = None,
    format: options.Format = "gguf",
    text: options.Text = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    reuse: options.Reuse = None,
    explain_order: Annotated[
        bool, typer.Option("--explain-order", help="measure steps alone and in several orders, and print that instead")
    ] = False,
    recipe: Annotated[
        Path | None, typer.Option(help="whose order is explained; by default the likeliest one that cuts and rounds")
    ] = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Prints candidate recipes with what they are expected to cost, in the order in which fit would try them."""
    from featherweight.cli.order_table import print_order
    from featherweight.cli.progress import progress
    from featherweight.cli.tables import print_plan
    from featherweight.core.budget import Budget
    from featherweight.core.errors import RecipeError
    from featherweight.verbs import plan as verb
    from featherweight.verbs.prepare import Settings

    if recipe is not None and not explain_order:
        raise RecipeError(f"--recipe {recipe}", "is only of use with --explain-order", "add it, or use apply")

    limits = (memory, quality, latency, resident)
    budget = None
    if recipe is None or any(limits):
        budget = Budget(
            memory=memory, quality=quality, latency=latency, resident=resident, context=context, threads=threads
        )
    settings, shown = Settings(seed=seed, device=device), progress(quiet)
    if explain_order:
        ordering = verb.explain_order(
            model, recipe, budget, format=format, text=text, settings=settings, reuse=reuse, trust=trust, progress=shown
        )
        print_order(ordering)
    elif budget is not None:
        outlook = verb.plan(
            model, budget, format=format, text=text, settings=settings, reuse=reuse, trust=trust, progress=shown
        )
        print_plan(outlook)
