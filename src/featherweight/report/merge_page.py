"""The page of a merge: cosines of what the fine-tunes changed, for the whole model and where in it they are largest.

Two coloured tables in a file of some kilobytes: it lies in every merged folder, and charts would bring megabytes along.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherweight.core.gram import Grams, cosines
from featherweight.report.adapter_charts import block_and_part
from featherweight.report.charts import place_of
from featherweight.report.figures_page import STYLE

_TABLE = (
    "table{border-collapse:separate;border-spacing:2px;font-size:13px}th{font-weight:400;color:#6b7686;text-align:right;"
    "padding:0 .4rem}td{min-width:1.2rem;height:1.5rem;text-align:center}.wide{overflow-x:auto}"
)
_NEGATIVE, _ZERO, _POSITIVE = (194, 69, 45), (244, 247, 249), (11, 74, 102)
_DARK = 0.55  # of a cosine, from which on its number is white

Cell = tuple[float | None, str, str]
"""A value from -1 to 1 or none, what is written in the cell, what is shown where the pointer is."""


def write_merge_page(path: Path, title: str, facts: Mapping[str, Any], grams: Grams) -> None:
    """Writes the page.

    Args:
        path: the file.
        title: what the merged model is called.
        facts: as in `merge.json`.
        grams: inner products of the deltas.
    """
    parts = [f"<p>{html.escape(sentence)}</p>" for sentence in _sentences(facts)]
    if len(grams.names) > 1:
        parts.append("<h2>Cosines of the changes, all weights</h2>" + cosine_table(grams))
        parts.append("<h2>Largest cosine of any pair, by block and module</h2>" + module_table(grams))
    head = f'<meta charset="utf-8"><title>Merge {html.escape(title)}</title><style>{STYLE}{_TABLE}</style>'
    body = f"<h1>Merge {html.escape(title)}</h1>{''.join(parts)}"
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
    path.write_text(text, encoding="utf-8")


def _sentences(facts: Mapping[str, Any]) -> list[str]:
    names = ", ".join(f"{each['name']} (weight {each['weight']:.4g})" for each in facts["deltas"]) or "nothing"
    said = [f"{facts['method']}: {names}, onto {facts['base']['name']}. Fingerprint {facts['fingerprint'][:16]}."]
    if facts["meaning"]:
        said.append(facts["meaning"][0].upper() + facts["meaning"][1:] + ".")
    if facts.get("subtracted"):
        said.append(f"Subtracted since: {', '.join(facts['subtracted'])}.")
    return said


def cosine_table(grams: Grams) -> str:
    """Cosines of every pair; a delta of zeros has none."""
    rows = []
    for row, values in zip(grams.names, cosines(grams.total).tolist(), strict=True):
        cells: list[Cell] = [
            (None, "", f"{row}, {column}: none")
            if math.isnan(value)
            else (value, f"{value:+.3f}", f"{row}, {column}: {value:+.5f}")
            for column, value in zip(grams.names, values, strict=True)
        ]
        rows.append((row, cells))
    return heat_table(rows, grams.names)


def module_table(grams: Grams) -> str:
    """The largest cosine of any pair in every module: blocks across, modules down."""
    found = {block_and_part(name.removesuffix(".weight")): _largest(grams, name) for name in grams.by_tensor}
    blocks = sorted({block for block, _ in found if block is not None}) or [0]
    parts = sorted({part for _, part in found}, key=lambda part: (place_of(part.rpartition(".")[2]), part))
    rows = [
        (part, [found.get((block, part)) or _outside(found, part, block == blocks[0]) for block in blocks])
        for part in parts
    ]
    return heat_table(rows, [str(block) for block in blocks])


def _largest(grams: Grams, name: str) -> Cell:
    found = cosines(grams.by_tensor[name]).tril(-1).nan_to_num(0.0)
    row, column = divmod(int(found.abs().argmax()), len(grams.names))
    value = float(found[row, column])
    return value, "", f"{name}: {grams.names[row]} and {grams.names[column]} {value:+.3f}"


def _outside(found: Mapping[tuple[int | None, str], Cell], part: str, first: bool) -> Cell:
    """What is in no block stands in the first column."""
    return found.get((None, part), (None, "", "")) if first else (None, "", "")


def heat_table(rows: Sequence[tuple[str, Sequence[Cell]]], columns: Sequence[str]) -> str:
    """A table whose cells are coloured by their values."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(_cell(*cell) for cell in cells)}</tr>" for name, cells in rows
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _cell(value: float | None, text: str, note: str) -> str:
    if value is None:
        return f'<td title="{html.escape(note)}"></td>'
    end, share = (_POSITIVE if value > 0 else _NEGATIVE), min(abs(value), 1.0)
    colour = ",".join(str(round(a + share * (b - a))) for a, b in zip(_ZERO, end, strict=True))
    ink = ";color:#fff" if share > _DARK else ""
    return f'<td style="background:rgb({colour}){ink}" title="{html.escape(note)}">{text}</td>'
