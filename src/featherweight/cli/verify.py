"""featherweight verify: is the child still as good? Does a run's ledger hold?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherweight.cli import options

Url = Annotated[str | None, typer.Option(help="address of an OpenAI-compatible server to judge in the child's place")]


def verify(
    parent: Annotated[str | None, typer.Argument(help="the model to compare with")] = None,
    children: Annotated[
        list[str] | None,
        typer.Argument(help="models to judge: folders, .gguf files, a run's final; several are ranked"),
    ] = None,
    quality: options.Quality = None,
    domain_quality: Annotated[
        str | None, typer.Option(help="the same for each domain; ten points less by default")
    ] = None,
    kl: Annotated[
        float | None, typer.Option(help="most KL to the parent, nats a token; by default -10 ln of --quality")
    ] = None,
    agreement: Annotated[
        str | None, typer.Option(help="least share of equal most likely tokens; by default --quality less 35 points")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="most bytes: 92MB, or 45% of the parent in bf16")] = None,
    text: options.Text = None,
    answers: Annotated[int, typer.Option(help="chat prompts that both models answer; 0 = none")] = 8,
    answer_tokens: Annotated[int, typer.Option(help="the most tokens of an answer")] = 64,
    questions: Annotated[str | None, typer.Option(help="a .jsonl file of prompts to use instead")] = None,
    tolerance: Annotated[
        str, typer.Option(help="share of answers in which repetition or a missing end may be new")
    ] = "12.5%",
    tasks: Annotated[str | None, typer.Option(help="lm-evaluation-harness tasks to compare on: a,b")] = None,
    task_limit: Annotated[int | None, typer.Option(help="questions a task; all by default")] = None,
    task_margin: Annotated[str, typer.Option(help="how much a task's mean may fall")] = "2%",
    safety: Annotated[
        Path | None, typer.Option(help="policy.yaml: compare refusals and usefulness on the cases that it names")
    ] = None,
    prompts: options.Direct = None,
    framed: options.Framed = None,
    benign: options.Benign = None,
    capability: options.Capability = None,
    margin: Annotated[str | None, typer.Option(help="how much of each may be lost; the policy's, or 2%")] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="at which layer the child begins to reason otherwise")
    ] = False,
    layer_limit: Annotated[
        str | None, typer.Option(help="most drift of any layer; by default layers only inform")
    ] = None,
    layer_labels: Annotated[
        str, typer.Option(help="what layers are asked: kind, frequency, hash, domain, or a .jsonl of texts with labels")
    ] = "kind",
    restore: Annotated[bool, typer.Option("--restore", help="measure what putting back each layer brings")] = False,
    engine: Url = None,
    parent_engine: Annotated[str | None, typer.Option(help="address of a server that answers for the parent")] = None,
    served: options.Served = "",
    key_file: options.KeyFile = None,
    timeout: options.Timeout = 60.0,
    out: Annotated[Path | None, typer.Option(help="folder for verdict.json, report.html, junit.xml and more")] = None,
    ledger: Annotated[str | None, typer.Option(help="check the receipts of this run instead")] = None,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="train a policy canary and see that the safety gate catches its control"),
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    quiet: options.Quiet = False,
) -> None:
    """Exit status 0: as good as the floors say; 1: not; 2: cannot tell, or bad input."""
    from featherweight.cli.progress import progress
    from featherweight.cli.verify_table import print_verification
    from featherweight.core.errors import CheckpointError
    from featherweight.verbs.prepare import Settings
    from featherweight.verbs.verify import verify as run
    from featherweight.verbs.verify import verify_ledger

    if ledger is not None:
        receipts = verify_ledger(ledger)
        typer.echo(f"{ledger}: {len(receipts)} receipts, the chain holds")
        return
    if self_check:
        raise typer.Exit(_self_check(out, seed, quiet))
    if parent is None:
        raise CheckpointError("verify", "needs a parent and a child", "or give a run with --ledger")
    result = run(
        parent,
        *(children or []),
        quality=quality,
        domain_quality=domain_quality,
        kl=kl,
        agreement=agreement,
        memory=memory,
        text=text,
        answers=answers,
        answer_tokens=answer_tokens,
        questions=questions,
        tolerance=tolerance,
        tasks=tasks.split(",") if tasks else [],
        task_limit=task_limit,
        task_margin=task_margin,
        safety=safety,
        prompts=prompts,
        framed=framed,
        benign=benign,
        capability=capability,
        margin=margin,
        layers=layers,
        layer_limit=layer_limit,
        layer_labels=layer_labels,
        restore=restore,
        engine=engine,
        parent_engine=parent_engine,
        served=served,
        key_file=key_file,
        timeout=timeout,
        out=out,
        settings=Settings(seed=seed, device=device),
        trust=trust,
        progress=progress(quiet),
    )
    print_verification(result, out)
    raise typer.Exit(result.verdict.exit_status)


def _self_check(out: Path | None, seed: int, quiet: bool) -> int:
    """Whether the safety gate works here; without `out` nothing of it is kept."""
    import tempfile

    from featherweight.cli.progress import progress
    from featherweight.cli.verify_table import print_section
    from featherweight.verbs.self_check import self_check

    with tempfile.TemporaryDirectory(prefix="featherweight-self-check-") as folder:
        section = self_check(out or Path(folder) / "self-check", seed=seed, progress=progress(quiet))
    print_section(section)
    return section.verdict.exit_status
