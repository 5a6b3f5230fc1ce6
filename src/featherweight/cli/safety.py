"""featherweight safety: puts a policy's cases to a model and keeps a receipt for every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options


def safety(
    model: Annotated[
        str, typer.Argument(help="a model as for fit, or the address of an OpenAI-compatible server: http://host:8080")
    ],
    out: Annotated[Path, typer.Option(help="folder of the evidence")],
    policy: Annotated[
        Path | None, typer.Option(help="policy.yaml: cases, detectors, judge, drawing, thresholds")
    ] = None,
    direct: options.Direct = None,
    framed: options.Framed = None,
    benign: options.Benign = None,
    capability: options.Capability = None,
    served: options.Served = "",
    key_file: options.KeyFile = None,
    timeout: options.Timeout = 60.0,
    backend: Annotated[str, typer.Option(help="auto, transformers or llama.cpp")] = "auto",
    resume: options.Resume = False,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Exit status 0: every threshold is met; 1: one is not; 2: cannot tell, or bad input."""
    from featherweight.cli.progress import progress
    from featherweight.cli.safety_tables import print_safety
    from featherweight.core.errors import PolicyError
    from featherweight.verbs.asking import Asking, backend_of
    from featherweight.verbs.safety import safety as run

    files = {"direct": direct, "framed": framed, "benign": benign, "capability": capability}
    sets = {role: path for role, path in files.items() if path is not None}
    if (policy is None) == (not sets):
        raise PolicyError("safety", "needs either --policy or files of cases", "give --policy policy.yaml")
    asking = Asking(served, key_file, timeout, backend=backend_of(backend), device=device, trust=trust)
    result = run(model, policy or sets, out, asking=asking, resume=resume, progress=progress(quiet))
    print_safety(result)
    raise typer.Exit(result.verdict.exit_status)
