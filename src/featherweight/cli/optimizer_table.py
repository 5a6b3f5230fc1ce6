"""The tables that compare-optimizers ends with: how well each learnt, what each took, and the verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from featherweight.cli.tables import new_table
from featherweight.core.budget import format_bytes

if TYPE_CHECKING:
    from featherweight.plan.optimizer_choice import Score
    from featherweight.verbs.compare_optimizers import Comparison


def print_comparison(result: Comparison, out: Path | None, page: Path | None = None) -> None:
    """The comparison for people."""
    console, protocol = Console(), result.protocol
    console.print(
        f"{result.workload}: {protocol.rates} rates x {protocol.seeds} seeds of each optimizer, {protocol.steps} steps "
        "on the same batches; loss on held-out text at the end of the schedule",
        highlight=False,
    )
    learnt = new_table("optimizer", "best rate", "loss", "lowest to highest", "basin", "diverged", "tokens")
    for each in result.scores:
        low, high = min(each.losses), max(each.losses)
        learnt.add_row(
            each.optimizer, f"{each.learning_rate:.2g}{' (edge)' if each.edge else ''}", _number(each.mean),
            f"{_number(low)} to {_number(high)}", f"{each.basin:.3g}x", f"{each.diverged}/{each.trials}", _tokens(each),
        )  # fmt: skip
    console.print(learnt)
    cost = new_table("optimizer", "ms a step", "state", "of which embeddings", "peak of training")
    for each in result.scores:
        state = result.states[each.optimizer]
        cost.add_row(
            each.optimizer, f"{each.seconds * 1e3:.1f}", format_bytes(each.state), format_bytes(state.embeddings),
            "unknown" if each.peak is None else format_bytes(each.peak),
        )  # fmt: skip
    console.print(cost)
    console.print(
        "basin: largest / smallest rate within 1 % of the best loss; tokens: until adamw's mean loss at the end "
        "(never: some seed does not get there)",
        highlight=False,
    )
    winner = result.verdict.winner or "none"
    console.print(f"winner: [bold]{winner}[/bold] ({result.verdict.reason})", highlight=False)
    if result.choice is not None:
        console.print(
            f"within the limit: [bold]{result.choice.optimizer}[/bold] ({result.choice.reason})", highlight=False
        )
        for candidate in result.choice.candidates:
            if candidate.rejected:
                console.print(f"  not {candidate.optimizer}: {candidate.rejected}", highlight=False)
    if out is not None:
        console.print(f"trials  {out}", highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f"picture {page}", highlight=False, soft_wrap=True)


def _number(loss: float) -> str:
    return f"{loss:.3f}" if math.isfinite(loss) else "diverged"


def _tokens(score: Score) -> str:
    return "never" if score.tokens is None else f"{score.tokens:,.0f}"
