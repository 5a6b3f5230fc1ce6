"""featherweight garak: lets garak probe a model, or takes over a report that it left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def garak(
    out: Annotated[Path, typer.Option(help="folder of the evidence")],
    model: Annotated[str | None, typer.Argument(help="a model as for safety; none with --report")] = None,
    probes: Annotated[str, typer.Option(help="garak's probes to run: test.Test,lmrc")] = "",
    python: Annotated[Path | None, typer.Option(help="an interpreter that has garak")] = None,
    report: Annotated[Path | None, typer.Option(help="a .report.jsonl to take over instead")] = None,
    hitlog: Annotated[Path | None, typer.Option(help="its .hitlog.jsonl; by default the one beside it")] = None,
    least: Annotated[str | None, typer.Option(help="least share of prompts passed: 90%")] = None,
    tokens: Annotated[int, typer.Option(help="tokens an answer")] = 64,
    temperature: Annotated[float, typer.Option(help="of the draws; 0 = the likeliest token")] = 0.0,
    generations: Annotated[int, typer.Option(help="answers a prompt")] = 1,
    no_text: Annotated[bool, typer.Option("--no-text", help="keep only hashes of the answers")] = False,
    served: options.Served = "",
    key_file: options.KeyFile = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Exit status 0: the threshold is met, or there is none; 1: it is not; 2: cannot tell, or bad input."""
    from featherweight.cli.fields import listed
    from featherweight.cli.progress import progress
    from featherweight.cli.safety_tables import print_safety
    from featherweight.core.budget import parse_share
    from featherweight.core.errors import DataError
    from featherweight.measure.answers import Generation
    from featherweight.verbs.asking import Asking
    from featherweight.verbs.garak import Probing, import_garak
    from featherweight.verbs.garak import garak as run

    share = None if least is None else parse_share(least, "least", "90%")
    if (model is None) == (report is None):
        raise DataError("garak", "needs either a model or --report", "give one of them")
    if report is not None:
        result = import_garak(report, out, hitlog=hitlog, least=share, store_text=not no_text)
    else:
        probing = Probing(listed(probes), python, Generation(tokens, temperature, seed=seed), generations)
        asking = Asking(served, key_file, device=device, trust=trust)
        result = run(
            str(model), probing, out, least=share, store_text=not no_text, asking=asking, progress=progress(quiet)
        )
    print_safety(result)
    raise typer.Exit(result.verdict.exit_status)
