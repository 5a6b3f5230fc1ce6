"""Charts of a comparison of optimizers: every trial's loss against its learning rate, and loss against bytes of state.

A trial that diverged has no loss: it is a cross above all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.budget import format_bytes
from featherweight.report.charts import ACCENT, BAD, GOOD, INK, layout
from featherweight.report.figures_page import Figure

_COLORS = (ACCENT, BAD, GOOD, "#b8860b", "#6a4fb3", "#4f9aa8", "#b5432e", "#7a7a2b")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def figures(facts: Mapping[str, Any]) -> list[Figure]:
    """The pictures of a comparison.

    Args:
        facts: what `Comparison.to_dict` gives: trials, and scores with the best first.
    """
    names = [each["optimizer"] for each in facts["scores"]]
    return [
        Figure("Held-out loss against learning rate, every seed a point", loss_by_rate(facts["trials"], names)),
        Figure("Loss at the best rate against bytes of state", loss_by_state(facts["scores"], names)),
    ]


def loss_by_rate(trials: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """A point for every trial, and a line through the means of the rates at which no seed diverged.

    Args:
        trials: optimizer, learning_rate, seed and loss of each; None = it diverged.
        names: of the optimizers, in the order of the legend.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(440))
    known = [each["loss"] for each in trials if each["loss"] is not None]
    above = max(known) + 0.08 * (max(known) - min(known)) if known else 1.0
    for index, name in enumerate(names):
        own = [each for each in trials if each["optimizer"] == name]
        _add_points(figure, index, name, own, above)
        _add_means(figure, index, name, own)
    figure.update_xaxes(title="learning rate", type="log", exponentformat="power")
    figure.update_yaxes(title="held-out loss, nats a token")
    return figure


def _add_points(figure: Any, index: int, name: str, own: Sequence[Mapping[str, Any]], above: float) -> None:
    dead = [each["loss"] is None for each in own]
    figure.add_scatter(
        x=[each["learning_rate"] for each in own],
        y=[above if lost else each["loss"] for each, lost in zip(own, dead, strict=True)],
        mode="markers",
        name=name,
        legendgroup=name,
        marker={**_marker(index, 8), "symbol": ["x-thin-open" if lost else _symbol(index) for lost in dead]},
        text=[_said(each) for each in own],
        hovertemplate="%{text}<extra></extra>",
    )


def _said(trial: Mapping[str, Any]) -> str:
    ended = "diverged" if trial["loss"] is None else f"{trial['loss']:.4f}"
    return f"{trial['optimizer']}, rate {trial['learning_rate']:.3g}, seed {trial['seed']}: {ended}"


def _add_means(figure: Any, index: int, name: str, own: Sequence[Mapping[str, Any]]) -> None:
    losses: dict[float, list[float | None]] = {}
    for each in sorted(own, key=lambda each: each["learning_rate"]):
        losses.setdefault(each["learning_rate"], []).append(each["loss"])
    means = {rate: _mean(found) for rate, found in losses.items()}
    figure.add_scatter(
        x=list(means), y=list(means.values()), mode="lines", legendgroup=name, showlegend=False, hoverinfo="skip",
        line={"color": _color(index), "width": 1.5},
    )  # fmt: skip


def _mean(losses: Sequence[float | None]) -> float | None:
    """None where a seed diverged: the line is broken there."""
    known = [each for each in losses if each is not None]
    return sum(known) / len(known) if len(known) == len(losses) else None


def loss_by_state(scores: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """Each optimizer at its best rate: bytes of its state across, its seeds' losses up, and their mean with its name.

    Args:
        scores: optimizer, losses (None = diverged) and state of each.
        names: of the optimizers, in the order of the colours.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(380, showlegend=False))
    for each in scores:
        index, mean = names.index(each["optimizer"]), _mean(each["losses"])
        if mean is None:
            continue
        color, bytes_ = _color(index), each["state"] / 1e6
        figure.add_scatter(
            x=[bytes_] * len(each["losses"]), y=list(each["losses"]), mode="lines+markers", hoverinfo="skip",
            line={"color": color, "width": 1}, marker={**_marker(index, 6), "opacity": 0.5},
        )  # fmt: skip
        figure.add_scatter(
            x=[bytes_], y=[mean], mode="markers+text", text=[each["optimizer"]], textposition="middle right",
            textfont={"color": INK}, marker={**_marker(index, 11), "symbol": _symbol(index)},
            hovertemplate=f"{each['optimizer']}: {mean:.4f}, {format_bytes(each['state'])}<extra></extra>",
        )  # fmt: skip
    most = max((each["state"] for each in scores), default=1) / 1e6 or 1.0
    figure.update_xaxes(title="optimizer state, MB", range=[-0.04 * most, 1.25 * most])
    figure.update_yaxes(title="held-out loss, nats a token")
    return figure


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]


def _symbol(index: int) -> str:
    return _SYMBOLS[index // len(_COLORS) % len(_SYMBOLS)]


def _marker(index: int, size: int) -> dict[str, Any]:
    return {"color": _color(index), "size": size, "line": {"color": _color(index), "width": 1.5}}
