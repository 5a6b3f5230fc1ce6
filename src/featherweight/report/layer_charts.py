"""Charts of a layer audit: drift by layer, what each layer adds, conceptograms of parent and child side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.report.charts import ACCENT, BAD, GOOD, MUTED, SOFT, layout, reach
from featherweight.report.figures_page import Figure

_SHADES = ((0.0, "#f4f7f9"), (0.2, "#c9dde5"), (0.5, "#6fa9bd"), (1.0, "#0b4a66"))


def layer_figures(facts: Mapping[str, Any]) -> list[Figure]:
    """Every chart that the facts of a layer audit have something to show in.

    Args:
        facts: of the section "layers".
    """
    figures = []
    if facts["rows"]:
        figures.append(Figure("Drift of what each layer says about the labels", drift_by_layer(facts)))
    if any(state["relative"] is not None for state in facts["states"]):
        figures.append(Figure("Drift of the hidden states, and each layer's own error", state_drift_by_layer(facts)))
    if facts["restoration"]:
        figures.append(Figure("What putting one layer back to the parent's brings", restoration_by_layer(facts)))
    if facts["conceptograms"]["worst"] is not None:
        label = facts["conceptograms"]["worst"]
        title = f"Mean conceptogram where the right label is '{label}', the one that drifted most"
        figures.append(Figure(title, conceptogram_pair(facts, label)))
    return figures


def drift_by_layer(facts: Mapping[str, Any]) -> Any:
    """Total variation of every place in the order of computation, with intervals and the noise of bf16 rounding."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(380))
    rows = facts["rows"]
    places = list(range(len(rows)))
    figure.add_scatter(
        x=places, y=[row["noise"] for row in rows], mode="lines", name="parent with bf16 noise",
        line={"color": MUTED, "width": 1, "dash": "dot"},
    )  # fmt: skip
    for side, name, color in (
        ("input", "what it reads", SOFT), ("output", "what it gives", ACCENT), ("prediction", "the prediction", BAD),
    ):  # fmt: skip
        own = [place for place in places if rows[place]["side"] == side]
        if own:
            figure.add_scatter(
                x=own, y=[rows[place]["drift"] for place in own], mode="markers+lines", name=name,
                error_y=_bars([rows[place] for place in own], "drift"), marker={"color": color, "size": 6},
                line={"color": color, "width": 1}, text=[_place(rows[place]) for place in own],
                hovertemplate="%{text}: %{y:.2%}<extra></extra>",
            )  # fmt: skip
    _mark_first(figure, rows, facts["first_drift"])
    figure.update_xaxes(tickvals=_ticks(rows), ticktext=_names(rows))
    figure.update_yaxes(title="mean total variation", tickformat=".1%", rangemode="tozero")
    return figure


def _bars(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any] | None:
    """Error bars of 95 % intervals, where all are known."""
    if any(row["interval"] is None for row in rows):
        return None
    return reach([row[key] for row in rows], [row["interval"] for row in rows], color=None, width=0)


def _mark_first(figure: Any, rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any] | None) -> None:
    if first is None:
        return
    keys = ("module", "side")
    place = next(index for index, row in enumerate(rows) if all(row[key] == first[key] for key in keys))
    figure.add_vline(place, line={"color": BAD, "width": 1}, annotation_text="beyond noise from here")


def _group(row: Mapping[str, Any]) -> str:
    """The block that a place is in, or its module outside of the blocks."""
    return row["module"] if row["block"] is None else f"block {row['block']}"


def _ticks(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Some ten places, each the first of its block or module."""
    starts = [index for index, row in enumerate(rows) if index == 0 or _group(row) != _group(rows[index - 1])]
    return starts[:: max(1, len(starts) // 10)]


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [_group(rows[index]) for index in _ticks(rows)]


def _place(row: Mapping[str, Any]) -> str:
    return row["module"] if row["side"] == "prediction" else f"{row['module']} ({row['side']})"


def state_drift_by_layer(facts: Mapping[str, Any]) -> Any:
    """Relative error of the states after each layer, the layer's own error, and the noise."""
    import plotly.graph_objects as go

    states = [state for state in facts["states"] if state["relative"] is not None]
    names = [state["name"] for state in states]
    figure = go.Figure(layout=layout(340))
    figure.add_bar(x=names, y=[state["local"] for state in states], name="its own error", marker={"color": SOFT})
    for key, name, line in (
        ("relative", "all that has come together", {"color": ACCENT, "width": 2}),
        ("noise", "parent with bf16 noise", {"color": MUTED, "width": 1, "dash": "dot"}),
    ):
        figure.add_scatter(x=names, y=[state[key] for state in states], mode="lines", name=name, line=line)
    figure.update_yaxes(title="relative error of hidden states", tickformat=".0%", rangemode="tozero")
    return figure


def restoration_by_layer(facts: Mapping[str, Any]) -> Any:
    """By how much the divergence falls when one layer is put back."""
    import plotly.graph_objects as go

    gains = facts["restoration"]["gains"]
    rows = list(gains.values())
    figure = go.Figure(layout=layout(320, showlegend=False))
    figure.add_bar(
        x=list(gains), y=[row["gain"] for row in rows], error_y=_bars(rows, "gain"),
        marker={"color": [GOOD if row["gain"] > 0 else BAD for row in rows]},
        hovertemplate="%{x}: %{y:.4f} nats<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(title=f"nats a token, of {facts['restoration']['divergence']:.4f}")
    return figure


def conceptogram_pair(facts: Mapping[str, Any], label: str) -> Any:
    """Mean peepholes at every place for the samples of one label: parent on the left, child on the right.

    Args:
        facts: of the section "layers".
        label: whose samples.
    """
    from plotly.subplots import make_subplots

    found = facts["conceptograms"]
    pair = found["labels"][label]
    height = min(900, 12 * len(found["rows"]) + 130)
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=("parent", "child"))
    shades = {"colorscale": [list(each) for each in _SHADES], "cmin": 0, "cmax": 1}
    figure.update_layout(layout(height, coloraxis=shades, margin={"l": 8, "r": 8, "t": 28, "b": 8}))
    for column, side in enumerate(("parent", "child"), start=1):
        figure.add_heatmap(
            z=pair[side], x=facts["labels"], y=found["rows"], coloraxis="coloraxis", row=1, col=column,
            hovertemplate="%{y}, %{x}: %{z:.1%}<extra></extra>",
        )  # fmt: skip
    rows = facts["rows"]
    figure.update_yaxes(autorange="reversed", showgrid=False, showticklabels=False)
    figure.update_yaxes(
        showticklabels=True, tickvals=[found["rows"][index] for index in _ticks(rows)], ticktext=_names(rows), col=1
    )
    figure.update_xaxes(showgrid=False, tickangle=-40)
    return figure
