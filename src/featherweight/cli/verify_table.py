"""What a verification prints: the ranking of several children, every check with its reason, quality by domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from featherweight.cli.layer_table import print_layers
from featherweight.cli.tables import new_table, percent
from featherweight.core.budget import format_bytes

if TYPE_CHECKING:
    from featherweight.verify.gate import Check
    from featherweight.verify.section import Section
    from featherweight.verify.verification import Verification, Verified

_STYLES = {"pass": "green", "fail": "red", "cannot tell": "yellow"}


def print_verification(result: Verification, out: Path | None = None) -> None:
    """The tables, and the verdict as the last line."""
    console = Console()
    for child in result.children:
        if len(result.children) > 1:
            console.print(f"\n{child.name}: {_colored(str(child.verdict))}", highlight=False, soft_wrap=True)
        _print_child(console, child)
    if result.ranking is not None:
        _print_ranking(console, result)
    if out is not None:
        console.print(f"record  {out}", highlight=False, soft_wrap=True)
    console.print(f"[bold]{result.verdict}[/bold]")


def print_section(section: Section) -> None:
    """The checks of a section that stands alone, and its verdict as the last line."""
    console = Console()
    _print_checks(console, section.checks)
    _print_reasons(console, section.checks)
    console.print(f"[bold]{section.verdict}[/bold]")


def _print_checks(console: Console, checks: Sequence[Check]) -> None:
    table = new_table("check", "asked for", "found", "verdict")
    for check in checks:
        table.add_row(check.name, check.asked, check.found, _colored(str(check.verdict)))
    console.print(table)


def _print_reasons(console: Console, checks: Sequence[Check]) -> None:
    for check in checks:
        console.print(f"{check.name}: {check.reason}", highlight=False, markup=False)


def _print_child(console: Console, child: Verified) -> None:
    _print_checks(console, child.checks)
    section = child.section("quality")
    if section is not None:
        domains = new_table("by domain", "quality", "KL to parent", "same top token")
        for name, each in [*section.facts["domains"].items(), ("all", section.facts["all"])]:
            domains.add_row(
                name, percent(each["ratio"], each["ratio_interval"]), f"{each['kl']:.4f}", percent(each["agreement"])
            )
        console.print(domains)
    _print_reasons(console, child.checks)
    layers, safety = child.section("layers"), child.section("safety")
    if layers is not None:
        print_layers(layers.facts)
    for each in safety.facts["warnings"] if safety is not None else ():
        console.print(f"note: {each}", highlight=False, markup=False)


def _print_ranking(console: Console, result: Verification) -> None:
    ranking = result.ranking
    assert ranking is not None  # whoever calls has looked
    by_name = {child.name: child for child in result.children}
    table = new_table("ranked", "closeness", "bytes", "verdict", "out for")
    rows = [(name, f"{score:.3f}", "") for name, score in ranking.ranked]
    rows += [(name, "", ", ".join(missed)) for name, missed in ranking.vetoed.items()]
    for name, closeness, missed in rows:
        child = by_name[name]
        table.add_row(
            name, closeness, format_bytes(child.facts["bytes"]), _colored(str(child.verdict)), missed
        )  # fmt: skip
    console.print(table)
    if not ranking.ranked:
        console.print("No child is acceptable.", highlight=False)


def _colored(verdict: str) -> str:
    return f"[{_STYLES[verdict]}]{verdict}[/{_STYLES[verdict]}]"
