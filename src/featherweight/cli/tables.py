"""The tables that verbs end with; each fits 80 columns and points at a picture or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from featherweight.core.budget import format_bytes

if TYPE_CHECKING:
    from featherweight.verbs.graft import GraftResult
    from featherweight.verbs.plan import Outlook

_SHOWN = 12


def new_table(*titles: str) -> Table:
    """A table whose first column is left-aligned and whose others hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, title in enumerate(titles):
        table.add_column(title, justify="left" if position == 0 else "right", overflow="fold")
    return table


def percent(value: float, interval: tuple[float, float] | list[float] | None = None) -> str:
    """A share for people, with its interval where given."""
    shown = f"{value:.1%}"
    return f"{shown} ({interval[0]:.1%} to {interval[1]:.1%})" if interval else shown


def print_fit(facts: Mapping[str, Any], folder: Path, page: Path) -> None:
    """What a fit or an apply came to."""
    console = Console()
    if facts["chosen"] is not None:
        _print_numbers(console, facts)
    if facts["why"] is not None:
        _print_infeasible(console, facts["why"])
    cost = facts["cost"]
    console.print(
        f"{len(facts['trials'])} candidates considered, "
        f"{sum(trial['status'] == 'measured' for trial in facts['trials'])} measured; "
        f"{cost['seconds']:.0f} s, peak memory {format_bytes(cost['peak_memory'])}",
        highlight=False,
    )
    if facts["chosen"] is not None:
        console.print(f"model   {folder / 'final' / facts['chosen']['path']}", highlight=False, soft_wrap=True)
    console.print(f"report  {page}", highlight=False, soft_wrap=True)


def _print_numbers(console: Console, facts: Mapping[str, Any]) -> None:
    from featherweight.report.page import rate

    chosen, goal = facts["chosen"], facts["goal"]
    parent, quality = chosen["parent"], chosen["quality"]
    table = new_table("measured on the file", "parent (bf16)", "result", "limit", "")
    missed = set(chosen["missed"])

    def row(label: str, before: str, after: str, name: str = "") -> None:
        limit = goal.get(name, "").removesuffix(" a token")
        mark = "" if not limit else "[red]missed[/red]" if name in missed else "[green]met[/green]"
        table.add_row(label, before, after, limit, mark)

    row("file", format_bytes(parent["memory"]), format_bytes(chosen["memory"]), "memory")
    row("quality", "100 %", percent(quality["ratio"]), "quality")
    row("  95 % interval", "", " to ".join(f"{each:.1%}" for each in quality["ratio_interval"]))
    row("perplexity", f"{quality['parent_perplexity']:.2f}", f"{quality['child_perplexity']:.2f}")
    row("KL to parent, nats", "0", f"{quality['kl']:.4f}")
    row("same top token", "100 %", percent(quality["agreement"]))
    row(
        "ms a token",
        f"{parent['latency']['seconds'] * 1e3:.1f}",
        f"{chosen['latency']['seconds'] * 1e3:.1f}",
        "latency",
    )
    row("prompt tokens/s", f"{parent['latency']['prefill']:.0f}", f"{chosen['latency']['prefill']:.0f}")
    row("resident", format_bytes(parent["resident"]), format_bytes(chosen["resident"]), "resident")
    for score in facts.get("tasks", []):
        row(f"{score['task']}, {score['metric']}", rate(score, "parent"), rate(score, "child"))
    console.print(table)
    if facts.get("healing"):
        _print_healing(console, facts["healing"], chosen["name"])
    console.print(f"recipe  {chosen['steps']}", highlight=False, markup=False)


def _print_healing(console: Console, healing: Mapping[str, Any], chosen: str) -> None:
    """The best candidate without and with healing, at the same bytes."""
    table = new_table("healing, on held-out text", "file", "quality", "95 % interval", "KL to parent", "")
    for name in ("plain", "healed"):
        trial, quality = healing[name], healing["held-out"][name]
        table.add_row(
            {"plain": "without", "healed": f"with, {healing['found'].get('steps', 0)} steps"}[name],
            format_bytes(trial["memory"]), percent(quality["ratio"]),
            " to ".join(f"{each:.1%}" for each in quality["ratio_interval"]), f"{quality['kl']:.4f}",
            "exported" if trial["name"] == chosen else "",
        )  # fmt: skip
    console.print(table)


def _print_infeasible(console: Console, why: Mapping[str, Any]) -> None:
    console.print("[red]Nothing meets this budget.[/red]")
    table = new_table("", "asked for", "reachable")
    names = list(dict.fromkeys([*why["goal"], *why["reachable"]]))
    for name in names:
        table.add_row(name, why["goal"].get(name, ""), why["reachable"].get(name, ""))
    console.print(table)
    if why["binding"]:
        console.print(f"binding: {', '.join(why['binding'])} (lifting one of these alone would do)", highlight=False)
    else:
        console.print("binding: no single limit; several must give", highlight=False)
    near = new_table("nearest", "file", "quality", "misses")
    for trial in why["nearest"]:
        quality = trial["quality"]
        near.add_row(
            trial["label"], format_bytes(trial["memory"]), percent(quality["ratio_interval"][0]),
            ", ".join(trial["misses"]) or "nothing",
        )  # fmt: skip
    if why["nearest"]:
        console.print(near)


def print_plan(outlook: Outlook) -> None:
    """Candidates with what is expected of them, in the order in which fit would try them."""
    console = Console()
    study = outlook.study
    console.print(
        f"parent {format_bytes(study.parent_bytes)} in bf16, {study.parent.parameters / 1e6:.1f} M weights; "
        f"goal: {', '.join(f'{name} {limit}' for name, limit in study.goal.describe().items())}",
        highlight=False,
    )
    table = new_table("candidate", "file", "KL cut", "KL rounding", "quality", "ms", "fit would")
    for candidate in outlook.candidates[:_SHOWN]:
        seconds = study.seconds(candidate)
        table.add_row(
            f"{candidate.cut}, {candidate.rounding}", format_bytes(candidate.memory), f"{candidate.cut_kl:.3f}",
            f"{candidate.round_kl:.3f}", percent(candidate.ratio), f"{seconds * 1e3:.1f}" if seconds else "",
            "measure it" if outlook.would_run(candidate) else "skip it",
        )  # fmt: skip
    console.print(table)
    console.print(
        "Expected from Fisher-weighted rounding errors and removal costs measured on this model; within a candidate, "
        "cuts come before rounding, and fit measures both orders.",
        highlight=False,
    )
    frontier = new_table("expected frontier", *(format_bytes(each.memory) for each in outlook.curve[::6]))
    frontier.add_row("quality", *(percent(each.ratio) for each in outlook.curve[::6]))
    console.print(frontier)


def print_graft(result: GraftResult) -> None:
    """A graft beside its controls."""
    console = Console()
    table = new_table("classifier", "layers", "accuracy (95 %)", "weights", "of donor", "file")
    for each in result.variants:
        share = each.parameters / result.donor_parameters
        table.add_row(
            each.name, ", ".join(map(str, each.layers)), percent(each.accuracy, each.interval),
            f"{each.parameters:,}", f"{share:.1%}", format_bytes(each.bytes),
        )  # fmt: skip
    console.print(table)
    rows = result.rows
    console.print(
        f"{rows['test']} test rows, {rows['training']} to train on, {rows['validation']} to choose layers on; "
        f"the largest class is {result.largest:.1%} of the test rows",
        highlight=False,
    )
    if result.folder is not None:
        console.print(f"model   {result.folder}", highlight=False, soft_wrap=True)
