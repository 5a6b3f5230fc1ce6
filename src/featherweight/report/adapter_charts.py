"""Charts of adapters: a value for every module, blocks across and modules down; quality over ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from featherweight.report.charts import ACCENT, MUTED, SOFT, layout, place_of

_BLOCK = re.compile(r"\.(\d+)\.")
_SHADES = ((0.0, "#f4f7f9"), (0.001, "#dbe7ec"), (0.35, "#8fb9c9"), (0.7, "#2f7d9d"), (1.0, "#0b4a66"))


def block_and_part(module: str) -> tuple[int | None, str]:
    """'model.layers.7.mlp.up_proj' -> 7, 'mlp.up_proj'; what is in no block -> None and its name."""
    match = _BLOCK.search(module)
    return (int(match[1]), module[match.end() :]) if match else (None, module)


def ranks_heatmap(values: Mapping[str, float], notes: Mapping[str, str], title: str) -> Any:
    """A value for every module of the blocks: blocks across, modules down; modules outside blocks are a line each.

    Args:
        values: by module name.
        notes: what is shown where the pointer is, by module name.
        title: of the scale.
    """
    import plotly.graph_objects as go

    places = {module: block_and_part(module) for module in values}
    blocks = sorted({block for block, _ in places.values() if block is not None}) or [0]
    parts = sorted({part for _, part in places.values()}, key=lambda part: (place_of(part.rpartition(".")[2]), part))
    at = {(part, block): module for module, (block, part) in places.items()}
    at |= {(part, blocks[0]): module for module, (block, part) in places.items() if block is None}
    names = [[at.get((part, block)) for block in blocks] for part in parts]
    figure = go.Figure(layout=layout(34 * len(parts) + 110))
    figure.add_heatmap(
        x=blocks,
        y=parts,
        z=[[None if name is None else values[name] for name in row] for row in names],
        customdata=[["" if name is None else f"{name}: {notes[name]}" for name in row] for row in names],
        colorscale=[list(shade) for shade in _SHADES],
        zmin=0,
        xgap=2,
        ygap=2,
        colorbar={"title": title, "thickness": 12},
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="block", showgrid=False, dtick=max(1, len(blocks) // 10), tick0=0)
    return figure


def placement_heatmap(shares: Mapping[str, float]) -> Any:
    """Each module's share of the energy of the adapter's first gradient."""
    return ranks_heatmap(shares, {module: f"{share:.2%}" for module, share in shares.items()}, "share")


def loss_by_rank(ranks: Sequence[int], losses: Sequence[float], base: float | None) -> Any:
    """Held-out loss at each rank, and the base model's."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=layout(340))
    figure.add_scatter(
        x=list(ranks),
        y=list(losses),
        mode="lines+markers",
        name="with the adapter",
        line={"color": ACCENT, "width": 2},
        hovertemplate="rank %{x}: %{y:.4f}<extra></extra>",
    )
    if base is not None:
        figure.add_hline(
            base, line={"color": MUTED, "width": 1, "dash": "dot"}, annotation_text="without",
            annotation_font={"color": MUTED},
        )  # fmt: skip
    figure.update_xaxes(title="rank", type="log", tickvals=list(ranks), gridcolor=SOFT)
    figure.update_yaxes(title="held-out loss, nats per token")
    return figure
