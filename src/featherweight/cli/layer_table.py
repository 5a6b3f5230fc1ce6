"""The table of a layer audit: where it begins, what contributes most, and the layers that drifted most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from featherweight.cli.tables import new_table

_SHOWN = 12


def print_layers(facts: Mapping[str, Any]) -> None:
    """What the section "layers" found.

    Args:
        facts: of the section.
    """
    console = Console()
    for sentence in layer_sentences(facts):
        console.print(sentence, highlight=False, markup=False)
    if not facts["states"]:
        return
    table = new_table("layer", "states off", "noise", "own error", "CKA", "peepholes off", "restoring")
    for row in layer_rows(facts):
        table.add_row(*row)
    console.print(table)


def layer_sentences(facts: Mapping[str, Any]) -> list[str]:
    """What a person should know first."""
    first, most, same = facts["first_drift"], facts["most"], facts["first_difference"]
    found = [f"{facts['samples']} positions of {facts['documents']} documents, labels: {', '.join(facts['labels'])}"]
    if first is not None:
        found.append(f"beyond noise from: {_place(first)} ({first['drift']:.2%} total variation)")
    elif facts["rows"]:
        found.append("no layer drifted beyond the noise of bf16 rounding")
    if same is None and facts["rows"]:
        found.append("no difference at all in what layers say")
    if most is not None:
        unit = f"{most['value']:.4f} nats a token" if most["by"] == "restoration" else f"{most['value']:+.2%}"
        found.append(f"contributes most: {most['name']} ({unit}, by {most['by']})")
    own = facts["own_error"]
    if own is not None:
        found.append(f"largest error of its own: {own['name']} ({own['value']:.2%} of its states)")
    conform = facts["conformity"]
    if conform is not None:
        found.append(f"conformity to the usual story: parent {conform['parent']:.3f}, child {conform['child']:.3f}")
    return [*found, *facts["notes"]]


def _place(row: Mapping[str, Any]) -> str:
    return row["module"] if row["side"] == "prediction" else f"{row['module']}, {row['side']}"


def layer_rows(facts: Mapping[str, Any], most: int = _SHOWN) -> list[Sequence[str]]:
    """One row a layer whose states were compared; of many layers the ones that matter most, in their order.

    Args:
        facts: of the section.
        most: rows at most.
    """
    states, gains = facts["states"], (facts["restoration"] or {}).get("gains", {})
    order = sorted(range(len(states)), key=lambda index: -_weight(states[index], gains))
    return [_row(states[index], facts["rows"], gains) for index in sorted(order[:most])]


def _weight(state: Mapping[str, Any], gains: Mapping[str, Any]) -> float:
    if state["name"] in gains:
        return float(gains[state["name"]]["gain"])
    return float(state["added"]) if state["relative"] is not None else 1 - state["cka"]


def _row(state: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], gains: Mapping[str, Any]) -> Sequence[str]:
    name = state["name"]
    own = [row["drift"] for row in rows if f"block {row['block']}" == name or row["module"] == name]
    known = state["relative"] is not None
    return (
        name,
        f"{state['relative']:.2%}{' *' if state['drifted'] else ''}" if known else "other width",
        f"{state['noise']:.2%}" if known else "",
        "" if state["local"] is None else f"{state['local']:.2%}",
        f"{state['cka']:.4f}",
        f"{max(own):.2%}" if own else "",
        f"{gains[name]['gain']:.4f}" if name in gains else "",
    )
