"""featherweight plan: what fit would try, and why; writes nothing."""

from __future__ import annotations

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
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Prints candidate recipes with what they are expected to cost, in the order in which fit would try them."""
    from featherweight.cli.progress import progress
    from featherweight.cli.tables import print_plan
    from featherweight.core.budget import Budget
    from featherweight.verbs.plan import plan as run
    from featherweight.verbs.prepare import Settings

    budget = Budget(
        memory=memory, quality=quality, latency=latency, resident=resident, context=context, threads=threads
    )
    settings = Settings(seed=seed, device=device)
    print_plan(
        run(
            model, budget, format=format, text=text, settings=settings, reuse=reuse, trust=trust,
            progress=progress(quiet),
        )
    )  # fmt: skip
