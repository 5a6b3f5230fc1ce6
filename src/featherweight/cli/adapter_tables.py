"""The tables of the verbs on adapters: modules of one kind share a line, so that they fit a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from featherweight.cli.tables import new_table, percent
from featherweight.core.budget import format_bytes

if TYPE_CHECKING:
    from featherweight.measure.placement import Placement
    from featherweight.verbs.adapter_export import Exported
    from featherweight.verbs.adapter_inspect import Inspected
    from featherweight.verbs.adapter_place import Placed
    from featherweight.verbs.adapter_shrink import Shrunk

_BLOCK = re.compile(r".*?\.\d+\.")
_SHOWN = 12


class _Named(Protocol):
    @property
    def module(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _by_kind(modules: Iterable[N]) -> list[tuple[str, list[N]]]:
    """Modules by their name inside a block, in the order in which they come; beyond some, the rest together."""
    groups: dict[str, list[N]] = {}
    for each in modules:
        groups.setdefault(_BLOCK.sub("", each.module, count=1), []).append(each)
    kinds = list(groups.items())
    rest = [each for _, found in kinds[_SHOWN:] for each in found]
    return [*kinds[:_SHOWN], *([(f"{len(kinds) - _SHOWN} other kinds", rest)] if rest else [])]


def _range(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"


def print_shrunk(result: Shrunk) -> None:
    """Ranks before and after, what is left, and the control."""
    console = Console()
    table = new_table("module", "of", "rank before", "after", "dropped", "parameters", "energy kept")
    for kind, modules in _by_kind(result.modules):
        share = sum(each.share for each in modules)
        kept = sum(each.share * each.kept for each in modules) / share if share else 1.0
        table.add_row(
            kind, str(len(modules)), _range([each.before for each in modules]),
            _range([each.after for each in modules]), str(sum(each.after == 0 for each in modules) or ""),
            f"{sum(each.parameters for each in modules):,}", percent(kept),
        )  # fmt: skip
    console.print(table)
    (before, after), (was, now) = result.parameters, result.bytes
    summary = new_table(result.rule, "parameters", "of before", "file", "energy")
    summary.add_row("before", f"{before:,}", "100.0%", format_bytes(was), "100.0%")
    summary.add_row("after", f"{after:,}", percent(after / before), format_bytes(now), percent(result.energy))
    control = result.control
    count = int(control["parameters"])
    summary.add_row(
        f"control: rank {control['rank']:g} everywhere", f"{count:,}", percent(count / before), "",
        percent(control["energy"]),
    )  # fmt: skip
    console.print(summary)
    console.print(f"adapter {result.folder}", highlight=False, soft_wrap=True)
    console.print(f"picture {result.page}", highlight=False, soft_wrap=True)


def print_exported(result: Exported) -> None:
    """What was written, and what llama.cpp made of it."""
    console = Console()
    table = new_table("exported", "rank", "modules", "parameters", "file")
    table.add_row(
        result.format, str(result.rank), str(result.modules), f"{result.parameters:,}", format_bytes(result.bytes)
    )
    console.print(table)
    if result.reload is not None:
        found = result.reload
        console.print(
            f"llama.cpp with it is {found.difference:.2g} nats from the merged model, without it {found.effect:.2g} "
            f"({found.predictions} predictions)",
            highlight=False,
        )
    console.print(f"adapter {result.path}", highlight=False, soft_wrap=True)


def print_inspected(result: Inspected) -> None:
    """Ranks and energy by kind of module, and the curve where it was measured."""
    console = Console()
    base = f", base {result.facts.base_name} ({result.facts.base[:12]})" if result.facts else ""
    console.print(
        f"{result.method}: {len(result.modules)} modules, {result.parameters:,} parameters, "
        f"{format_bytes(result.bytes)}{base}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = new_table("module", "of", "rank", "parameters", "energy", "rank for 95 %", "99 %")
    for kind, modules in _by_kind(result.modules):
        table.add_row(
            kind, str(len(modules)), _range([each.rank for each in modules]),
            f"{sum(each.parameters for each in modules):,}", percent(sum(each.share for each in modules)),
            _range([each.rank_95 for each in modules]), _range([each.rank_99 for each in modules]),
        )  # fmt: skip
    console.print(table)
    if result.curve is not None:
        _print_curve(console, result)


def _print_curve(console: Console, result: Inspected) -> None:
    assert result.curve is not None
    table = new_table("rank", "held-out loss", "base minus it")
    for rank, loss in zip(result.curve.ranks, result.curve.losses, strict=True):
        table.add_row(str(rank), f"{loss:.4f}", f"{result.curve.base - loss:+.4f}")
    table.add_row("base", f"{result.curve.base:.4f}", "")
    console.print(table)
    area = result.curve.aurac
    console.print(
        f"AURAC of the negated loss: {area.linear:.4f} over rank (v1), {area.log:.4f} over log2 rank (v2), "
        f"mean {area.mean:.4f}",
        highlight=False,
    )


def print_placed(result: Placed) -> None:
    """The highest modules, and the command that adapts the first."""
    found = result.placement
    console = Console()
    console.print(placement_table(found))
    console.print(
        f"{found.score} of {found.samples} samples, {found.predictions:,} predictions; where the first steps go, "
        "not which adapter is best in the end.",
        highlight=False,
    )
    console.print(
        f"next    featherweight adapt {result.model} --place auto, with a learning rate ten times as large",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if result.page is not None:
        console.print(f"picture {result.page}", highlight=False, soft_wrap=True)


def placement_table(found: Placement, shown: int = 8) -> Table:
    """The highest modules with their shares of the sum."""
    table = new_table("module", "share of energy", "times the mean")
    for module in found.ranked[:shown]:
        table.add_row(module, percent(found.share(module)), f"{found.share(module) * len(found.scores):.1f}")
    return table
