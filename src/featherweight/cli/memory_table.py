"""The table of a memory plan: what a training step takes, what binds, and what would lower it."""

from __future__ import annotations

from rich.console import Console

from featherweight.cli.tables import new_table, percent
from featherweight.core.budget import format_bytes
from featherweight.train.memory import MemoryPlan

_SHOWN = 5


def print_memory_plan(plan: MemoryPlan) -> None:
    """The terms, largest first, and other choices that take less."""
    console = Console()
    table = new_table("at the peak of a step", "bytes", "share")
    for name, size in sorted(plan.terms.items(), key=lambda pair: -pair[1]):
        if size:
            table.add_row(name, format_bytes(size), percent(size / plan.total))
    table.add_row("together", format_bytes(plan.total), "")
    console.print(table)
    limit = "no limit" if plan.limit is None else f"limit {format_bytes(plan.limit)}"
    console.print(f"{limit}; done for less memory: {plan.levers.words()}", highlight=False)
    console.print(f"binding: {plan.binding}, {format_bytes(plan.terms[plan.binding])}", highlight=False)
    _print_lower(console, plan)


def _print_lower(console: Console, plan: MemoryPlan) -> None:
    shown = sorted(plan.lower, key=lambda pair: pair[0].time)[:_SHOWN]
    if not shown:
        console.print("nothing here lowers it; shorter rows, more parts or a smaller rank would", highlight=False)
        return
    table = new_table("what would lower it", "to", "time a step")
    for levers, total in shown:
        table.add_row(levers.words(), format_bytes(total), f"x {levers.time / plan.levers.time:.2f}")
    console.print(table)
