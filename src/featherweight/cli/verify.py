"""featherweight verify: is the child still as good? Does a run's ledger hold?"""

from __future__ import annotations

from typing import Annotated

import typer

from featherweight.cli import options


def verify(
    parent: Annotated[str | None, typer.Argument(help="the model to compare with")] = None,
    child: Annotated[
        str | None, typer.Argument(help="the model to judge: a folder, a .gguf file, a run's final")
    ] = None,
    quality: options.Quality = None,
    text: options.Text = None,
    ledger: Annotated[str | None, typer.Option(help="check the receipts of this run instead")] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Exit status 0: as good as the floor says; 1: not; 2: cannot tell, or bad input."""
    from featherweight.cli.progress import progress
    from featherweight.cli.tables import print_verification
    from featherweight.core.errors import CheckpointError
    from featherweight.verbs.prepare import Settings
    from featherweight.verbs.verify import verify as run
    from featherweight.verbs.verify import verify_ledger

    if ledger is not None:
        receipts = verify_ledger(ledger)
        typer.echo(f"{ledger}: {len(receipts)} receipts, the chain holds")
        return
    if parent is None or child is None:
        raise CheckpointError("verify", "needs a parent and a child", "or give a run with --ledger")
    settings = Settings(seed=seed, device=device)
    result = run(parent, child, quality=quality, text=text, settings=settings, trust=trust, progress=progress(quiet))
    print_verification(result)
    raise typer.Exit(result.verdict.exit_status)
