"""The tables of the verbs on adapters: modules of one kind share a line, so that they fit a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from featherweight.cli.tables import new_table, percent
from featherweight.core.budget import format_bytes

if TYPE_CHECKING:
    from featherweight.export.gguf_adapter import AdapterReload
    from featherweight.measure.placement import Placement
    from featherweight.verbs.adapter_export import Exported
    from featherweight.verbs.adapter_inspect import Inspected
    from featherweight.verbs.adapter_place import Placed
    from featherweight.verbs.adapter_shrink import Shrunk
    from featherweight.verbs.adapter_vector import Groups, Vector

_BLOCK = re.compile(r".*?\.\d+\.")
_SHOWN, _WORST = 12, 5


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
    """What was written, what it lost of the adapter, and what llama.cpp made of it."""
    console = Console()
    table = new_table("exported", "rank", "modules", "parameters", "file")
    ranks = list(result.ranks.values())
    table.add_row(
        result.format, _range(ranks), str(len(ranks)), f"{result.parameters:,}", format_bytes(result.bytes)
    )  # fmt: skip
    console.print(table)
    if result.lost_in_all is not None:
        _print_lost(console, result, result.lost_in_all)
    if result.reload is not None:
        _print_reload(console, result.reload)
    console.print(f"adapter {result.path}", highlight=False, soft_wrap=True)


def _print_lost(console: Console, result: Exported, in_all: float) -> None:
    """The modules that lost most, and all together: norm of what is missing over the norm of the change."""
    table = new_table("lost of the change", "rank", "relative norm")
    worst = sorted(result.lost, key=lambda module: -result.lost[module])[:_WORST]
    for module in worst:
        table.add_row(module, str(result.ranks[module]), percent(result.lost[module]))
    table.add_row(f"all {len(result.lost)} modules", "", percent(in_all))
    console.print(table)
    if in_all**2 > 0.5:
        console.print(
            "more than half of the change's energy is missing: measure the result, or take a higher rank",
            highlight=False,
        )


def _print_reload(console: Console, found: AdapterReload) -> None:
    console.print(
        f"llama.cpp with it is {found.difference:.2g} nats from the merged model, without it {found.effect:.2g} "
        f"({found.predictions} predictions)",
        highlight=False,
    )
    if not found.telling:
        console.print("the adapter does so little that this cannot tell whether it is applied", highlight=False)


def print_inspected(result: Inspected) -> None:
    """Ranks and energy by kind of module, and the curve where it was measured; of a GPart adapter its vector."""
    console = Console()
    base = f", base {result.facts.base_name} ({result.facts.base[:12]})" if result.facts else ""
    if result.vector is not None:
        _print_vector(console, result.vector, base)
        return
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
    else:
        console.print("the loss at each rank and the area under that curve: --data HELD_OUT.jsonl", highlight=False)


def _print_vector(console: Console, found: Vector, base: str) -> None:
    total, settings = sum(found.weights.values()), found.settings
    console.print(
        f"GPART: {found.dimension:,} numbers for {total:,} weights of {len(found.weights)} modules, "
        f"{format_bytes(found.bytes)}{base}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = new_table("module", "of", "weights", "energy")
    for kind, modules in _by_kind([_Weights(*each) for each in found.weights.items()]):
        energy = percent(sum(found.shares[each.module] for each in modules)) if found.shares else "unknown"
        table.add_row(kind, str(len(modules)), f"{sum(each.weights for each in modules):,}", energy)
    console.print(table)
    facts = new_table("what decides the change", "")
    facts.add_row("seed", str(settings["seed"]))
    facts.add_row("back end", f"{settings['backend']}, version {settings['backend_version']}")
    facts.add_row("scope", "the whole model" if settings["scope"] == "model" else "each block for itself")
    facts.add_row("groups", _groups(found))
    facts.add_row("digest of the groups", _digest(settings["partition_digest"], found.groups))
    facts.add_row("digest of the base", _digest(settings["base_digest"], None))
    norm = "unknown without the base" if found.energy is None else f"{found.energy**0.5:.4g}"
    facts.add_row("norm of the change", norm)
    console.print(facts)


class _Weights(NamedTuple):
    module: str
    weights: int


def _groups(found: Vector) -> str:
    groups = found.groups
    if groups is None:
        return "made from the base's weights"
    if groups.smallest is None or groups.largest is None:
        return "none: every number changes every weight"
    size = f"{found.dimension:,}, {groups.smallest:,} to {groups.largest:,} weights each"
    return size + (f"; {groups.empty:,} without any" if groups.empty else "")


def _digest(value: str | None, groups: Groups | None) -> str:
    known = value[:12] if value else "none"
    if groups is None or groups.same is None:
        return known
    return known + (", the same here" if groups.same else ", but ANOTHER here: it cannot be loaded")


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
