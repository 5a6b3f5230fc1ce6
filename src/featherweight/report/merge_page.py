"""The page of a merge: cosines of what the fine-tunes changed, for the whole model and where in it they are largest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.gram import Grams, cosines
from featherweight.report.adapter_charts import ranks_heatmap
from featherweight.report.charts import layout
from featherweight.report.figures_page import Figure, write_page

_SCALE = ((0.0, "#c2452d"), (0.5, "#f4f7f9"), (1.0, "#0b4a66"))


def write_merge_page(path: Path, title: str, facts: Mapping[str, Any], grams: Grams) -> None:
    """Writes the page.

    Args:
        path: the file.
        title: what the merged model is called.
        facts: as in `merge.json`.
        grams: inner products of the deltas.
    """
    figures = []
    if len(grams.names) > 1:
        figures.append(Figure("Cosines of the changes, all weights", cosine_heatmap(grams.names, cosines(grams.total))))
        figures.append(Figure("Largest cosine of any pair, by block and module", largest_by_module(grams)))
    write_page(path, f"Merge {title}", _sentences(facts), figures)


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    names = ", ".join(f"{each['name']} (weight {each['weight']:.4g})" for each in facts["deltas"]) or "nothing"
    said = [f"{facts['method']}: {names}, onto {facts['base']['name']}. Fingerprint {facts['fingerprint'][:16]}."]
    if facts["meaning"]:
        said.append(facts["meaning"][0].upper() + facts["meaning"][1:] + ".")
    return said


def cosine_heatmap(names: Sequence[str], values: Any) -> Any:
    """Cosines of every pair, float [deltas, deltas], -1 to 1; a delta of zeros has none."""
    import plotly.graph_objects as go

    rows = [[None if math.isnan(each) else each for each in row] for row in values.tolist()]
    figure = go.Figure(layout=layout(60 * len(names) + 110))
    figure.add_heatmap(
        x=list(names), y=list(names), z=rows, zmin=-1, zmax=1, colorscale=[list(shade) for shade in _SCALE],
        text=[["" if each is None else f"{each:+.3f}" for each in row] for row in rows], texttemplate="%{text}",
        xgap=2, ygap=2, colorbar={"title": "cosine", "thickness": 12},
        hovertemplate="%{y}, %{x}: %{z:.5f}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    return figure


def largest_by_module(grams: Grams) -> Any:
    """The largest cosine of any pair in every module."""
    sizes, notes = {}, {}
    for name, gram in grams.by_tensor.items():
        found = cosines(gram).tril(-1).nan_to_num(0.0)
        row, column = divmod(int(found.abs().argmax()), len(grams.names))
        sizes[name.removesuffix(".weight")] = abs(float(found[row, column]))
        notes[name.removesuffix(".weight")] = (
            f"{grams.names[row]} and {grams.names[column]} {float(found[row, column]):+.3f}"
        )
    return ranks_heatmap(sizes, notes, "size of cosine")
