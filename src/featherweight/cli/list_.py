"""featherweight list: every technique, in one line each."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def list_techniques() -> None:
    """Lists every technique: what it does, of which kind it is, where it comes from."""
    from featherweight.core.technique import techniques

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("technique", "kind", "what it does", "source"):
        table.add_column(title, overflow="fold", no_wrap=title == "technique")
    for name, cls in techniques().items():
        table.add_row(name, str(cls.kind), cls.summary(), f"arXiv {cls.paper.arxiv}" if cls.paper.arxiv else "")
    Console().print(table)
