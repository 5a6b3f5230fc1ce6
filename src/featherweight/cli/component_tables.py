"""The tables of audit-component and distill-component; each fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from featherweight.cli.tables import new_table, percent

if TYPE_CHECKING:
    from featherweight.measure.token_cosine import TokenCosine
    from featherweight.measure.workload import Workload
    from featherweight.verbs.audit_component import Audit
    from featherweight.verbs.distill_component import ComponentResult


def print_audit(audit: Audit) -> None:
    """What a log does with an encoder, and what that recommends."""
    console = Console()
    found = audit.workload
    console.print(
        f"{found.prompts} prompts, {found.distinct} different; tokens: mean {found.mean:.1f}, median {found.median}, "
        f"95 % within {found.most_use}, longest {found.longest}",
        highlight=False,
    )
    contexts = new_table("context", "density", "padding", "prompts cut", "tokens lost")
    for use in found.contexts:
        contexts.add_row(
            str(use.context), f"{use.density:.3f}", percent(use.padding), percent(use.truncated), f"{use.lost:.2%}"
        )
    console.print(contexts)
    _print_rest(console, found)
    for reason in audit.recommendation.reasons:
        console.print(reason, highlight=False, markup=False)


def _print_rest(console: Console, found: Workload) -> None:
    table = new_table("measured", "", "")
    used = found.vocabulary
    table.add_row("ids in use", f"{used.used} of {used.size}", percent(used.share))
    table.add_row("tokens that occur once", "", f"{used.unseen:.2%}")
    table.add_row("token table of the parameters", "", percent(found.table_parameters / max(found.parameters, 1)))
    if found.positions is not None:
        table.add_row("position rows in use", f"{found.positions.used} of {found.positions.rows}", "")
        table.add_row("  cosine among the first", f"{found.most_use} rows", _cosine(found.positions.head))
        table.add_row("  cosine among the rest", "", _cosine(found.positions.tail))
    if found.outputs is not None:
        table.add_row("outputs: width", f"{found.outputs.points} different states", str(found.outputs.width))
        table.add_row("  intrinsic dimension", "TwoNN", f"{found.outputs.two_nn:.1f}")
        table.add_row("  participation ratio", "", f"{found.outputs.participation:.1f}")
        table.add_row("  components of 99 %", "", str(found.outputs.linear))
    console.print(table)


def _cosine(value: float | None) -> str:
    return "too few rows" if value is None else f"{value:.2f}"


def print_distilled(result: ComponentResult) -> None:
    """What a student costs and how close it is."""
    console = Console()
    console.print(
        f"component: {result.before:,} parameters before, {result.after:,} after "
        f"({1 - result.after / result.before:.1%} fewer); trained on {result.prompts} prompts; "
        f"context {result.context}, which cuts {result.truncated:.1%} of the log",
        highlight=False,
    )
    table = new_table("held out", "prompts", "cosine", "95 % interval", "centred", "worst 5 %")
    _add(table, "words trained on", result.seen)
    _add(table, "with a new word", result.unseen)
    console.print(table)
    kept = f"{result.untouched} tensors outside the component are the host's, bit for bit"
    console.print(kept if result.untouched else "the student replaces the whole model", highlight=False)
    console.print(f"model   {result.folder}", highlight=False, soft_wrap=True)


def _add(table: Table, label: str, found: TokenCosine | None) -> None:
    if found is None:
        table.add_row(label, "0", *[""] * 4)
        return
    low, high = found.interval
    table.add_row(
        label, str(found.prompts), f"{found.cosine:.3f}", f"{low:.3f} to {high:.3f}", f"{found.centred:.3f}",
        f"{found.worst:.3f}",
    )  # fmt: skip
