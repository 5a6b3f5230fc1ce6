"""The tables that grid ends with: shares of the variance, who is ahead, what a step is worth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console

from featherweight.cli.tables import new_table

if TYPE_CHECKING:
    from featherweight.plan.attribution import Estimate
    from featherweight.plan.standing import Standing
    from featherweight.verbs.grid import GridResult


def print_grid(result: GridResult) -> None:
    """The findings for people."""
    from featherweight.report.grid_page import sentences

    console, found = Console(), result.findings
    facts = result.to_dict()
    console.print(f"{result.name}: {sentences(facts)[0]}", highlight=False)
    shares = new_table("what the variance comes from", "share", "95 % interval", "noise alone")
    for each in found.shares:
        if each.degrees > 0:
            shares.add_row(each.term, f"{each.share.value:.1%}", _span(each.share, ".1%"), f"{each.chance:.1%}")
    console.print(shares)
    _print_standings(console, "backbone", found.backbones, result.parameters)
    _print_standings(console, "objective", found.objectives, {})
    if found.advice.steps:
        steps = new_table("one step", "gain", "cost", "gain a unit of cost, at least")
        for step in found.advice.steps:
            low = step.value.interval[0]
            least = "unknown" if math.isnan(low) else f"{low:+.4f}"
            steps.add_row(step.what, f"{step.gain.value:+.4f}", f"{step.cost:.3g}", least)
        console.print(steps)
    for line in sentences(facts)[2:]:
        console.print(line, highlight=False)
    if result.folder is not None:
        console.print(f"page  {result.folder / 'report.html'}", highlight=False, soft_wrap=True)


def _print_standings(console: Console, factor: str, found: tuple[Standing, ...], parameters: dict[str, int]) -> None:
    table = new_table(factor, "score", "untrained", "rank", "95 % interval", "parameters")
    for each in found:
        untrained = "" if each.baseline is None else f"{each.baseline:.3f}"
        size = f"{parameters[each.name]:,}" if each.name in parameters else ""
        table.add_row(
            each.name, f"{each.score:.3f}", untrained, f"{each.rank.value:.2f}", _span(each.rank, ".2f"), size
        )
    console.print(table)


def _span(estimate: Estimate, form: str) -> str:
    low, high = estimate.interval
    return "" if math.isnan(low) else f"{low:{form}} to {high:{form}}"
