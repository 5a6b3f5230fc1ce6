"""The table that `adapt` ends with: what the adapter brings, what it costs, where it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from featherweight.cli.tables import new_table, percent
from featherweight.core.budget import format_bytes


def print_adapt(facts: Mapping[str, Any], folder: Path, page: Path) -> None:
    """What a training came to."""
    console = Console()
    _print_numbers(console, facts)
    cost, adapter, data = facts["cost"], facts["adapter"], facts["data"]["training"]
    console.print(
        f"{facts['method']}: {len(facts['losses'])} updates on {data['examples']} examples ({data['trainable']} trained"
        f" tokens in {data['rows']} rows); {adapter['parameters']:,} parameters, {format_bytes(adapter['bytes'])};"
        f" {cost['training_seconds']:.0f} s, peak memory {format_bytes(cost['peak_memory'])}",
        highlight=False,
    )
    if facts.get("placement"):
        found = facts["placement"]
        console.print(
            f"placed on {found['best']}, with {found['shares'][found['best']]:.1%} of the first gradient's energy over "
            f"{len(found['shares'])} linears; a single module usually needs a larger learning rate than all together",
            highlight=False,
        )
    for name, path in (("adapter", folder), ("report", page)):
        console.print(f"{name:<8}{path}", highlight=False, soft_wrap=True)


def _print_numbers(console: Console, facts: Mapping[str, Any]) -> None:
    held, kept = facts["held_out"], facts["forgetting"]["all"]
    low, high = held["change_interval"]
    table = new_table("", "base", "adapted", "95 % interval")
    table.add_row(
        "held-out loss, nats a token", f"{held['before']:.4f}", f"{held['after']:.4f}",
        f"{low:+.4f} to {high:+.4f}",
    )  # fmt: skip
    table.add_row("held-out perplexity", *(f"{each:.2f}" for each in held["perplexities"]), "")
    table.add_row("other text, perplexity", f"{kept['parent_perplexity']:.2f}", f"{kept['child_perplexity']:.2f}", "")
    low, high = kept["kl_interval"]
    table.add_row("  KL to the base, nats", "0", f"{kept['kl']:.4f}", f"{low:.4f} to {high:.4f}")
    low, high = kept["agreement_interval"]
    table.add_row("  same top token", "100 %", percent(kept["agreement"]), f"{low:.1%} to {high:.1%}")
    console.print(table)
