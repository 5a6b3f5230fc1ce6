"""The charts of a report, as Plotly figures made from the facts of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INK, MUTED, GRID = "#1c2430", "#6b7686", "#e4e8ee"
ACCENT, GOOD, BAD, SOFT = "#0b6e99", "#2a8f5b", "#c2452d", "#9db4c0"
_SCALE = ("#b5432e", "#dd7f4f", "#f0b67a", "#f6dfb0", "#cfe3d4", "#8fc3b3", "#4f9aa8", "#2a6f97", "#1d4e77")


def layout(height: int, **changes: Any) -> dict[str, Any]:
    """What all charts have in common."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "automargin": True}
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        "autosize": True,
        "hoverlabel": {"font": {"size": 12}},
        "xaxis": dict(axis),
        "yaxis": dict(axis),
        **changes,
    }


def frontier(facts: Mapping[str, Any]) -> Any:
    """File size against quality: the expected frontier, every trial, the chosen file, the limits."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(420))
    curve = facts["curve"]
    if curve:
        figure.add_scatter(
            x=[point["memory"] / 1e6 for point in curve],
            y=[point["ratio"] for point in curve],
            mode="lines",
            name="expected",
            line={"color": SOFT, "width": 2, "dash": "dot"},
            text=[point["cut"] for point in curve],
            hovertemplate="%{x:.1f} MB, %{y:.1%}<br>%{text}<extra>expected</extra>",
        )
    for status, name, color, symbol in (
        ("measured", "measured", ACCENT, "circle"),
        ("first look", "rejected after a first look", BAD, "x"),
        ("expected", "rejected unrun (expected)", MUTED, "circle-open"),
    ):
        _add_trials(figure, [trial for trial in facts["trials"] if trial["status"] == status], name, color, symbol)
    _add_chosen(figure, facts)
    limits = facts["limits"]
    if limits["memory"] is not None:
        figure.add_vline(
            limits["memory"] / 1e6,
            line={"color": BAD, "width": 1},
            annotation_text="memory limit",
            annotation_position="bottom right",
        )
    if limits["quality"] is not None:
        figure.add_hline(
            limits["quality"],
            line={"color": BAD, "width": 1},
            annotation_text="quality floor",
            annotation_position="bottom right",
        )
    figure.update_xaxes(title="exported file, MB")
    figure.update_yaxes(title="quality", tickformat=".0%", range=_shares(facts))
    return figure


def _shares(facts: Mapping[str, Any]) -> list[float]:
    """The range of qualities worth showing: collapsed candidates would squeeze the rest together."""
    seen = [trial["quality"]["ratio"] for trial in facts["trials"] if trial["quality"]]
    seen += [facts["chosen"]["quality"]["ratio"]] if facts["chosen"] else []
    low = min([*(each for each in seen if each > 0.3), facts["limits"]["quality"] or 0.9, 0.9])
    return [low - 0.05, 1.02]


def reach(values: Sequence[float], spans: Sequence[Sequence[float]], **changes: Any) -> dict[str, Any]:
    """Error bars from values to the ends of their intervals."""
    return {
        "type": "data", "color": INK, "thickness": 1,
        "array": [span[1] - value for value, span in zip(values, spans, strict=True)],
        "arrayminus": [value - span[0] for value, span in zip(values, spans, strict=True)],
        **changes,
    }  # fmt: skip


def _add_trials(figure: Any, trials: Sequence[Mapping[str, Any]], name: str, color: str, symbol: str) -> None:
    from math import exp

    if not trials:
        return
    quality = [trial["quality"]["ratio"] if trial["quality"] else exp(-trial["expected"]["kl"]) for trial in trials]
    bars = None
    if all(trial["quality"] for trial in trials):
        bars = reach(quality, [trial["quality"]["ratio_interval"] for trial in trials], color=color, width=3)
    figure.add_scatter(
        x=[trial["memory"] / 1e6 for trial in trials],
        y=quality,
        error_y=bars,
        mode="markers",
        name=name,
        marker={"color": color, "symbol": symbol, "size": 9},
        text=[f"{trial['label']}<br>{trial['reason']}" for trial in trials],
        hovertemplate="%{x:.2f} MB, %{y:.1%}<br>%{text}<extra></extra>",
    )


def _add_chosen(figure: Any, facts: Mapping[str, Any]) -> None:
    chosen = facts["chosen"]
    if chosen is None:
        return
    figure.add_scatter(
        x=[chosen["memory"] / 1e6],
        y=[chosen["quality"]["ratio"]],
        mode="markers",
        name="the exported file",
        marker={
            "color": GOOD if facts["met"] else BAD,
            "symbol": "star",
            "size": 17,
            "line": {"color": "white", "width": 1},
        },
        hovertemplate="%{x:.2f} MB, %{y:.1%}<extra>the exported file, held-out text</extra>",
    )


def domains(facts: Mapping[str, Any]) -> Any:
    """Quality by domain of the exported file, with intervals."""
    import plotly.graph_objects as go

    chosen = facts["chosen"]
    rows = {**chosen["domains"], "all": chosen["quality"]}
    figure = go.Figure(layout=layout(max(180, 56 * len(rows) + 60), showlegend=False))
    ratios = [each["ratio"] for each in rows.values()]
    figure.add_bar(
        y=list(rows),
        x=ratios,
        orientation="h",
        marker={"color": [SOFT] * (len(rows) - 1) + [ACCENT]},
        error_x=reach(ratios, [each["ratio_interval"] for each in rows.values()]),
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    low = min([*(each["ratio_interval"][0] for each in rows.values()), facts["limits"]["quality"] or 1.0])
    figure.update_xaxes(tickformat=".0%", range=[max(0.0, low - 0.05), 1.02])
    figure.update_yaxes(autorange="reversed")
    if facts["limits"]["quality"] is not None:
        figure.add_vline(facts["limits"]["quality"], line={"color": BAD, "width": 1})
    return figure


def precision(facts: Mapping[str, Any], bits: Mapping[str, float]) -> Any:
    """The format of every matrix: blocks across, parts of a block down, colour by bits a weight.

    Args:
        facts: of the run.
        bits: bits a weight of every format that occurs.
    """
    import plotly.graph_objects as go

    table = facts["precision"]
    blocks = sorted((name for name in table if name != "-"), key=int)
    parts = sorted({part for block in blocks for part in table[block]}, key=lambda part: (place_of(part), part))
    kinds = sorted({kind for row in table.values() for kind in row.values()}, key=lambda kind: (bits[kind], kind))
    place = {kind: index for index, kind in enumerate(kinds)}
    colors = [_SCALE[round(index * (len(_SCALE) - 1) / max(1, len(kinds) - 1))] for index in range(len(kinds))]
    steps = [[(index + end) / len(kinds), color] for index, color in enumerate(colors) for end in (0, 1)]
    figure = go.Figure(layout=layout(44 * len(parts) + 110))
    figure.add_heatmap(
        x=[int(block) for block in blocks],
        y=parts,
        z=[[place.get(table[block].get(part, "")) for block in blocks] for part in parts],
        customdata=[[table[block].get(part, "") for block in blocks] for part in parts],
        colorscale=steps,
        zmin=-0.5,
        zmax=len(kinds) - 0.5,
        xgap=2,
        ygap=2,
        colorbar={
            "tickvals": list(range(len(kinds))),
            "ticktext": [f"{kind} ({bits[kind]:.1f})" for kind in kinds],
            "thickness": 12,
        },
        hovertemplate="block %{x}, %{y}: %{customdata}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="block", showgrid=False, dtick=max(1, len(blocks) // 10), tick0=0)
    return figure


def place_of(part: str) -> int:
    """Where a part stands in the order of computation."""
    known = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")
    return known.index(part) if part in known else len(known)
