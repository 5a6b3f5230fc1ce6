"""featherweight show: everything about one technique."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def show(name: Annotated[str, typer.Argument(help="a technique, as `list` names it")]) -> None:
    """Prints what a technique does, its source, its fields, what it needs and what it was measured to do."""
    from featherweight.core.technique import find
    from featherweight.verbs.show import claim_verdict

    cls = find(name)
    console = Console()
    console.print(f"[bold]{cls.name}[/bold] ({cls.kind})", highlight=False)
    console.print(inspect.cleandoc(cls.__doc__ or ""), markup=False, highlight=False)
    console.print(f"source: {cls.paper}", markup=False, highlight=False)
    console.print(f"needs:  {', '.join(sorted(cls.needs)) or 'nothing'}", markup=False, highlight=False)
    for earlier, reason in cls.not_after.items():
        console.print(f"not after {earlier}: {reason}", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("field", "default", "meaning"):
        table.add_column(title, overflow="fold")
    for field, facts in cls.model_fields.items():
        table.add_row(field, str(facts.get_default(call_default_factory=True)), facts.description or "")
    console.print(table, markup=False)
    console.print(f"neutral: {cls.neutral()!r}: {cls.neutral_means}", markup=False, highlight=False)
    console.print(f"measured: {claim_verdict(cls.name)}", markup=False, highlight=False)
