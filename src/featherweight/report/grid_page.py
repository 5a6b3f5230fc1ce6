"""The page of a grid: what its variance comes from, how each backbone does with more data, what a step is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.report.charts import ACCENT, BAD, GOOD, INK, MUTED, SOFT, layout
from featherweight.report.figures_page import Figure, page

_COLORS = (ACCENT, BAD, GOOD, "#8a5fa8", "#b98b1d", MUTED)
_SHADES = [[0, "#f4f7f9"], [0.5, "#8fb9c9"], [1, "#0b4a66"]]
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def render(facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        facts: what `result.json` of `grid` holds.
    """
    found = facts["findings"]
    figures = [
        Figure(
            "Share of the variance that each factor explains; the tick is what noise alone would give", shares(found)
        ),
        Figure("Score by amount of data", trends(facts)),
        Figure("Score by backbone and objective, mean over amounts and seeds", table(found)),
    ]
    if found["advice"]["steps"]:
        figures.append(Figure("What one step of each factor gains for a unit of cost", values(found)))
    return page(f"Grid on {facts['name']}", sentences(facts), figures)


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """What the grid says, in words."""
    found, crossed = facts["findings"], facts["grid"]
    ahead = found["backbones"][0]
    sizes = [len(crossed[each]) for each in ("backbones", "objectives", "rows", "rates")]
    lines = [
        f"{sizes[0]} backbones x {sizes[1]} objectives x {sizes[2]} amounts of data x {crossed['seeds']} seeds; judged "
        f"on {', '.join(facts['tasks'])}; {sizes[3]} learning rate{'s' if sizes[3] > 1 else ''} each.",
        f"Ahead: {ahead['name']}, mean score {ahead['score']:.3f}"
        + (f" ({ahead['baseline']:.3f} untrained)." if ahead["baseline"] is not None else "."),
        f"Spend on: {found['advice']['spend_on'] or 'nothing yet'}. {_sentence(found['advice']['reason'])}",
    ]
    flips = [each for each in found["orders"] if each["flips"] != "no"]
    for each in flips:
        lines.append(f"{each['first']} and {each['second']} change places with more data ({each['flips']}).")
    if len(crossed["rows"]) > 1 and not flips:
        lines.append("No two backbones change places between the smallest and the largest amount of data.")
    if found["unfinished"]:
        lines.append(f"{found['unfinished']} cells are best at the last learning rate of their grid: try more rates.")
    if found["failed"]:
        lines.append(f"{found['failed']} cells have no score.")
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def shares(found: Mapping[str, Any]) -> Any:
    """Shares with intervals, and what chance gives."""
    import plotly.graph_objects as go

    rows = [each for each in found["shares"] if each["degrees"] > 0]
    values = [each["share"]["value"] for each in rows]
    figure = go.Figure(layout=layout(46 * len(rows) + 90))
    figure.add_bar(
        y=[each["term"] for each in rows], x=values, orientation="h", name="share",
        marker={"color": [SOFT if each["term"] in ("seed", "residual") else ACCENT for each in rows]},
        error_x=_whiskers(values, [each["share"]["interval"] for each in rows]),
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        y=[each["term"] for each in rows], x=[each["chance"] for each in rows], mode="markers", name="noise alone",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": INK}},
        hovertemplate="noise alone: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(autorange="reversed")
    return figure


def _whiskers(values: Sequence[float], intervals: Sequence[Sequence[float | None]]) -> dict[str, Any] | None:
    """Error bars; none where an interval is missing."""
    if any(end is None for interval in intervals for end in interval):
        return None
    pairs = list(zip(values, intervals, strict=True))
    return {
        "type": "data", "thickness": 1, "color": INK,
        "array": [max((high or 0) - value, 0) for value, (_, high) in pairs],
        "arrayminus": [max(value - (low or 0), 0) for value, (low, _) in pairs],
    }  # fmt: skip


def trends(facts: Mapping[str, Any]) -> Any:
    """A line for every backbone and objective, a dot for every seed, a dotted level for every untrained backbone."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(460))
    found, objectives = facts["findings"], facts["grid"]["objectives"]
    for place, (backbone, by_objective) in enumerate(found["trend"].items()):
        color = _COLORS[place % len(_COLORS)]
        for objective, by_rows in by_objective.items():
            name = f"{backbone}, {objective}"
            figure.add_scatter(
                x=[int(rows) for rows in by_rows], y=list(by_rows.values()), mode="lines+markers", name=name,
                line={"color": color, "dash": _DASHES[objectives.index(objective) % len(_DASHES)]},
                hovertemplate=name + ", %{x:,} rows: %{y:.3f}<extra></extra>",
            )  # fmt: skip
        points = [
            each for each in facts["cells"] if each["backbone"] == backbone and each["rows"] and not each["failed"]
        ]
        figure.add_scatter(
            x=[each["rows"] for each in points], y=[each["score"] for each in points], mode="markers", showlegend=False,
            marker={"color": color, "size": 4, "opacity": 0.45},
            text=[f"{each['objective']}, seed {each['seed']}" for each in points],
            hovertemplate="%{text}: %{y:.3f}<extra>" + backbone + "</extra>",
        )  # fmt: skip
    for place, each in enumerate(sorted(found["backbones"], key=lambda one: list(found["trend"]).index(one["name"]))):
        if each["baseline"] is not None:
            figure.add_hline(each["baseline"], line={"color": _COLORS[place % len(_COLORS)], "width": 1, "dash": "dot"},
                             annotation_text=f"{each['name']}, untrained", annotation_font={"size": 10})  # fmt: skip
    figure.update_xaxes(title="rows of data", type="log")
    figure.update_yaxes(title="score")
    return figure


def table(found: Mapping[str, Any]) -> Any:
    """Backbones down, objectives across."""
    import plotly.graph_objects as go

    backbones = [each["name"] for each in found["backbones"]]
    objectives = [each["name"] for each in found["objectives"]]
    means = [[_mean(found["trend"].get(one, {}).get(other, {})) for other in objectives] for one in backbones]
    figure = go.Figure(layout=layout(60 * len(backbones) + 90))
    figure.add_heatmap(
        x=objectives, y=backbones, z=means, colorscale=_SHADES, xgap=3, ygap=3,
        text=[["" if each is None else f"{each:.3f}" for each in row] for row in means], texttemplate="%{text}",
        colorbar={"title": "score", "thickness": 12}, hovertemplate="%{y}, %{x}: %{z:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def _mean(by_rows: Mapping[str, float]) -> float | None:
    return sum(by_rows.values()) / len(by_rows) if by_rows else None


def values(found: Mapping[str, Any]) -> Any:
    """Gain a unit of cost of every step, with its interval."""
    import plotly.graph_objects as go

    steps = found["advice"]["steps"]
    gains = [each["value"]["value"] for each in steps]
    figure = go.Figure(layout=layout(56 * len(steps) + 90, showlegend=False))
    figure.add_bar(
        y=[each["what"] for each in steps], x=gains, orientation="h",
        marker={"color": [GOOD if each["factor"] == found["advice"]["spend_on"] else SOFT for each in steps]},
        error_x=_whiskers(gains, [each["value"]["interval"] for each in steps]),
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="gain in score, a unit of cost", zeroline=True, zerolinecolor=MUTED)
    figure.update_yaxes(autorange="reversed")
    return figure
