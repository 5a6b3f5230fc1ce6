"""The pictures of a verification, as Plotly figures made from the facts of its sections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from featherweight.report.charts import ACCENT, BAD, GOOD, INK, SOFT, domains, layout, reach
from featherweight.report.layer_charts import layer_figures

Titled = tuple[str, str, Any]
"""A title, a sentence on how to read the picture, and the figure."""


def figures(section: str, facts: Mapping[str, Any]) -> Iterator[Titled]:
    """The pictures of one section; none where there is nothing to see."""
    make = _MAKERS.get(section)
    if make is not None:
        yield from make(facts)


def _quality(facts: Mapping[str, Any]) -> Iterator[Titled]:
    shaped = {
        "chosen": {"domains": facts["domains"], "quality": facts["all"]},
        "limits": {"quality": facts["floors"]["ratio"]},
    }  # fmt: skip
    note = (
        "Parent perplexity divided by the child's, with 95 % bootstrap intervals over documents; the line is the floor."
    )
    yield "Quality by domain", note, domains(shaped)


def _generation(facts: Mapping[str, Any]) -> Iterator[Titled]:
    counts = facts["defects"]
    bars = {who: [each[who] for each in counts.values()] for who in ("parent", "child", "new")}
    figure = grouped_bars(list(counts), {
        "parent": (bars["parent"], SOFT), "child": (bars["child"], ACCENT), "of the child alone": (bars["new"], BAD),
    })  # fmt: skip
    prompts = max((each["prompts"] for each in counts.values()), default=0)
    figure.update_xaxes(title="answers", range=[0, max(prompts, 1)])
    yield "Answers that are none", f"Of {prompts} answers to the same prompts, drawn greedily.", figure


def _tasks(facts: Mapping[str, Any]) -> Iterator[Titled]:
    scores = [each for each in facts["scores"] if "skipped" not in each]
    if not scores:
        return
    names = [f"{each['task']}, {each['metric']}" for each in scores]
    figure = intervals(names, [each["gain"] for each in scores], [each["gain_interval"] for each in scores])
    figure.add_vline(-facts["margin"], line={"color": BAD, "width": 1})
    figure.update_xaxes(title="what the child gains", tickformat="+.1%")
    yield (
        "Tasks",
        "Mean gain over questions, paired, with 95 % bootstrap intervals; the line is minus the margin.",
        figure,
    )


def _safety(facts: Mapping[str, Any]) -> Iterator[Titled]:
    import plotly.graph_objects as go

    sets = (facts["adjudicated"] or facts["automatic"])["sets"]
    figure = go.Figure(layout=layout(max(200, 70 * len(sets) + 90), barmode="group"))
    for who, color in (("parent", SOFT), ("child", ACCENT)):
        rates = [each[who] for each in sets.values()]
        figure.add_bar(
            y=list(sets), x=[each["rate"] for each in rates], orientation="h", name=who, marker={"color": color},
            error_x=reach([each["rate"] for each in rates], [each["interval"] for each in rates]),
            hovertemplate="%{y}: %{x:.1%}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(range=[0, 1], tickformat=".0%", title="cases that hold")
    figure.update_yaxes(autorange="reversed")
    note = "Refused where due (direct, framed), served where due (benign, capability); 95 % Wilson intervals."
    yield "Safety and usefulness", note, figure


def _layers(facts: Mapping[str, Any]) -> Iterator[Titled]:
    for each in layer_figures(facts):
        yield each.title, "", each.figure


_MAKERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Titled]]] = {
    "quality": _quality, "generation": _generation, "tasks": _tasks, "safety": _safety, "layers": _layers,
}  # fmt: skip


def ranking(content: Mapping[str, Any]) -> Any:
    """Closeness of the children to the targets; those that are out have none."""
    import plotly.graph_objects as go

    ranked = dict(content["ranking"]["ranked"])
    names = [*ranked, *content["ranking"]["vetoed"]]
    figure = go.Figure(layout=layout(max(160, 40 * len(names) + 70), showlegend=False))
    figure.add_bar(
        y=names, x=[ranked.get(name, 0.0) for name in names], orientation="h",
        marker={"color": [GOOD if name in ranked else BAD for name in names]},
        text=[f"{ranked[name]:.3f}" if name in ranked else "out" for name in names], textposition="auto",
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(range=[0, 1], title="closeness to the targets")
    figure.update_yaxes(autorange="reversed")
    return figure


def grouped_bars(names: Sequence[str], groups: Mapping[str, tuple[Sequence[float], str]]) -> Any:
    """Bars side by side for each name.

    Args:
        names: one a row.
        groups: values of each row and a colour, by label.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(max(200, 60 * len(names) + 90), barmode="group"))
    for label, (values, color) in groups.items():
        figure.add_bar(y=list(names), x=list(values), orientation="h", name=label, marker={"color": color})
    figure.update_yaxes(autorange="reversed")
    return figure


def intervals(names: Sequence[str], values: Sequence[float], spans: Sequence[Sequence[float]]) -> Any:
    """A point with its interval for each name, and a line at zero."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(max(160, 40 * len(names) + 80), showlegend=False))
    figure.add_scatter(
        y=list(names), x=list(values), mode="markers", marker={"color": ACCENT, "size": 10},
        error_x=reach(values, spans),
    )  # fmt: skip
    figure.add_vline(0, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_yaxes(autorange="reversed")
    return figure
