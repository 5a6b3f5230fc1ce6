"""The tables of `plan --explain-order`: each step alone, neighbours in both orders, whole orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from featherweight.cli.tables import new_table

if TYPE_CHECKING:
    from featherweight.plan.order import Ordering


def print_order(ordering: Ordering) -> None:
    """What each step loses, what the rule proposes, what measuring found."""
    console = Console()
    steps = new_table("step", "loss alone", "C*", "given", "rule", "best")
    for index, stage in enumerate(ordering.stages):
        places = (str(order.index(index) + 1) for order in (ordering.given, ordering.proposed, ordering.best))
        steps.add_row(stage.name, f"{ordering.losses[index]:+.4f}", f"{ordering.ratios[index]:.2f}", *places)
    console.print(steps)
    if ordering.pairs:
        pairs = new_table("first → second", "G", "first first", "second first", "A")
        for pair in ordering.pairs:
            pairs.add_row(
                f"{pair.first} → {pair.second}", f"{pair.gap:+.4f}", f"{pair.loss_proposed:+.4f}",
                f"{pair.loss_reversed:+.4f}", f"{pair.advantage:+.4f}",
            )  # fmt: skip
        console.print(pairs)
    if ordering.measured:
        orders = new_table("whole order", "loss")
        for order, loss in sorted(ordering.measured.items(), key=lambda each: each[1]):
            orders.add_row(ordering.named(order), f"{loss:+.4f}")
        console.print(orders)
    _say(console, ordering)


def _say(console: Console, ordering: Ordering) -> None:
    console.print(
        "Losses in nats a token above the parent. C*: 16 / bits at which rounding alone loses as much. The rule puts "
        "the weaker step first (G > 0); A > 0 means that measuring agrees.",
        highlight=False,
    )
    if not ordering.monotone:
        console.print("Fewer bits did not always lose more here, so C* is doubtful.", highlight=False)
    for warning in ordering.warnings:
        console.print(f"[yellow]warning[/yellow] {warning}", highlight=False)
    how = "measured" if ordering.measured else "by the rule, not measured"
    console.print(f"[bold]order[/bold] {ordering.named(ordering.best)} ({how})", highlight=False)
