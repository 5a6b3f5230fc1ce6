"""Progress on a terminal: one bar at a time with the time left, and a line for everything decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from featherweight.core.progress import Progress

_WORTH_A_LINE = 1.0  # seconds


class TerminalProgress(Progress):
    """Bars on a terminal; elsewhere a line for each task that took a while; everything goes to standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        if not self.console.is_terminal:
            started = time.perf_counter()
            yield lambda: None
            seconds = time.perf_counter() - started
            if seconds >= _WORTH_A_LINE:
                self.say(f"  {label}: {seconds:.0f} s")
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda: bars.advance(task)

    def say(self, message: str) -> None:
        self.console.print(message, style="dim", highlight=False, markup=False, soft_wrap=True)


def progress(quiet: bool) -> Progress:
    """The progress that a verb reports to."""
    return Progress() if quiet else TerminalProgress()
