"""The tables that merge and unmerge end with: how alike the fine-tunes were, what each brought, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from featherweight.cli.tables import new_table, percent
from featherweight.core.budget import format_bytes

if TYPE_CHECKING:
    from featherweight.verbs.merge_folder import Merged
    from featherweight.verbs.residual import Residual
    from featherweight.verbs.unmerge import Unmerged

_SHOWN = 12


def print_merged(result: Merged) -> None:
    """Cosines, deltas, cost, and where everything is."""
    console, facts = Console(), result.facts
    if facts["pairs"]:
        table = new_table("pair", "cosine", "by tensor, 5 % to 95 %")
        for pair in _largest(facts["pairs"]):
            low, _, high = pair["quantiles"] or (None,) * 3
            by_tensor = "" if low is None else f"{low:+.3f} to {high:+.3f}"
            cosine = "none" if pair["cosine"] is None else f"{pair['cosine']:+.4f}"
            table.add_row(f"{pair['one']}, {pair['other']}", cosine, by_tensor)
        console.print(table)
    table = new_table("model", "kind", "size", "norm of change", "kept", "weight")
    for delta in facts["deltas"]:
        kept = "" if delta["kept"] is None else percent(delta["kept"])
        table.add_row(
            delta["name"], delta["kind"], format_bytes(delta["bytes"]), f"{delta['norm']:.4g}", kept,
            f"{delta['weight']:.4g}",
        )  # fmt: skip
    console.print(table)
    if facts["meaning"]:
        console.print(facts["meaning"], highlight=False)
    _print_cost(console, result)


def _largest(pairs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(pairs, key=lambda pair: -abs(pair["cosine"] or 0))[:_SHOWN]


def _print_cost(console: Console, result: Merged) -> None:
    facts = result.facts
    console.print(
        f"{facts['method']}: {facts['tensors']['changed']} of {facts['tensors']['all']} tensors changed, "
        f"{format_bytes(facts['bytes'])}, {facts['seconds']:.1f} s, peak memory {format_bytes(facts['peak_memory'])}",
        highlight=False,
    )
    console.print(f"fingerprint {facts['fingerprint']}", highlight=False, soft_wrap=True)
    console.print(f"model   {result.folder}", highlight=False, soft_wrap=True)
    console.print(f"picture {result.page}", highlight=False, soft_wrap=True)


def print_unmerged(result: Unmerged) -> None:
    """What remains along each fine-tune that was taken out, and what the subtraction leaves."""
    console = Console()
    table = new_table("taken out", "norm of change", "along it before", "along it now", "cosine before", "cosine now")
    for each in result.residuals:
        table.add_row(each.name, f"{each.norm:.4g}", *_remains(each))
    console.print(table)
    if result.mode == "rebuild":
        console.print(
            "rebuilt from the base and the others: what lies along it now is what the others share with it",
            highlight=False,
        )
    elif result.from_rebuild is not None:
        console.print(
            f"{percent(result.from_rebuild)} away from the rebuilt model, relative to what that changes of the base",
            highlight=False,
        )
    _print_cost(console, result.merged)


def _remains(each: Residual) -> tuple[str, str, str, str]:
    if each.before is None or each.after is None:
        return ("not measured: it is gone", "", "", "")
    (was, length_before), (now, length_after) = each.before, each.after
    return f"{length_before:.4g}", f"{length_after:.4g}", f"{was:+.4f}", "" if now != now else f"{now:+.4f}"
