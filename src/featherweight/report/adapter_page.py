"""The page of a training: what the adapter brings, what it costs, and how the loss fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.core.budget import format_bytes
from featherweight.report.adapter_charts import placement_heatmap
from featherweight.report.charts import ACCENT, GOOD, SOFT, layout, reach
from featherweight.report.figures_page import Figure, page


def render(facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        facts: what `result.json` of `adapt` holds.
    """
    title = f"{facts['method']} on {facts['model']['name']}"
    figures = [
        Figure("Loss, nats a token", loss_curve(facts)),
        Figure("What other text shows: quality relative to the base", kept_quality(facts)),
    ]
    if facts.get("placement"):
        shares = facts["placement"]["shares"]
        figures.append(Figure("Share of the energy of the adapter's first gradient", placement_heatmap(shares)))
    return page(title, _sentences(facts), figures)


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    held, kept = facts["held_out"], facts["forgetting"]["all"]
    adapter, data, cost = facts["adapter"], facts["data"], facts["cost"]
    return [
        f"{len(facts['losses'])} updates on {data['training']['examples']} examples with "
        f"{data['training']['trainable']} trained tokens; {adapter['parameters']:,} parameters, "
        f"{format_bytes(adapter['bytes'])}; {cost['training_seconds']:.0f} s of training, peak memory "
        f"{format_bytes(cost['peak_memory'])}.",
        f"Held-out samples ({held['examples']}, {held['tokens']} tokens): loss {held['before']:.4f} before, "
        f"{held['after']:.4f} after; change {held['change']:+.4f} ({_span(held['change_interval'], '+.4f')}, 95 %).",
        f"Other text ({kept['documents']} documents, {kept['tokens']} tokens): KL to the base {kept['kl']:.4f} nats a "
        f"token ({_span(kept['kl_interval'], '.4f')}), the same most likely token in {kept['agreement']:.1%} "
        f"({_span(kept['agreement_interval'], '.1%')}), perplexity {kept['parent_perplexity']:.2f} before, "
        f"{kept['child_perplexity']:.2f} after.",
        f"Base {facts['model']['fingerprint'][:16]}; receipt {str(facts['receipts']['head'])[:16]}.",
    ]


def _span(interval: Sequence[float], form: str) -> str:
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


def loss_curve(facts: Mapping[str, Any]) -> Any:
    """The loss of every update, its running mean, and the loss on the held-out samples."""
    import plotly.graph_objects as go

    losses, curve = facts["losses"], facts["held_out"]["curve"]
    figure = go.Figure(layout=layout(420))
    updates = list(range(1, len(losses) + 1))
    figure.add_scatter(x=updates, y=losses, mode="lines", name="an update", line={"color": SOFT, "width": 1})
    figure.add_scatter(
        x=updates, y=_running_mean(losses), mode="lines", name="running mean", line={"color": ACCENT, "width": 2}
    )
    figure.add_scatter(
        x=[step for step, _ in curve], y=[loss for _, loss in curve], mode="lines+markers", name="held-out samples",
        line={"color": GOOD, "width": 2},
    )  # fmt: skip
    figure.update_xaxes(title="updates")
    figure.update_yaxes(title="loss, nats a token")
    return figure


def _running_mean(losses: Sequence[float]) -> list[float]:
    """Over the last tenth of all updates, five at least."""
    window = max(5, len(losses) // 10)
    parts = [losses[max(0, end - window) : end] for end in range(1, len(losses) + 1)]
    return [sum(part) / len(part) for part in parts]


def kept_quality(facts: Mapping[str, Any]) -> Any:
    """Perplexity ratio and agreement by domain, with intervals."""
    import plotly.graph_objects as go

    rows = facts["forgetting"]
    figure = go.Figure(layout=layout(max(180, 60 * len(rows) + 80), barmode="group"))
    for key, name, color in (("ratio", "perplexity of base / adapted", ACCENT), ("agreement", "same top token", SOFT)):
        values = [each[key] for each in rows.values()]
        spans = [each[f"{key}_interval"] for each in rows.values()]
        figure.add_bar(
            y=list(rows), x=values, orientation="h", name=name, marker={"color": color},
            error_x=reach(values, spans, color=None),
        )  # fmt: skip
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(autorange="reversed")
    return figure
