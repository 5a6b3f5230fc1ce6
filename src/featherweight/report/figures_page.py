"""A page of a few sentences and charts that needs nothing else: no network, no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.report.template import chart, plotly_script

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1c2430;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}"
)


@dataclass(frozen=True)
class Figure:
    """A Plotly figure with what it shows, in words."""

    title: str
    figure: Any


def page(title: str, sentences: Sequence[str], figures: Sequence[Figure]) -> str:
    """The page as HTML."""
    script = f"<script>{plotly_script()}</script>"
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>{script}'
    body = "".join(f"<p>{html.escape(each)}</p>" for each in sentences)
    body += "".join(_section(number, each) for number, each in enumerate(figures))
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{html.escape(title)}</h1>{body}</body></html>'


def _section(number: int, each: Figure) -> str:
    return f"<h2>{html.escape(each.title)}</h2>{chart(each.figure, str(number))}"


def write_page(path: Path, title: str, sentences: Sequence[str], figures: Sequence[Figure]) -> None:
    """Writes the page into an existing folder."""
    path.write_text(page(title, sentences, figures), encoding="utf-8")
