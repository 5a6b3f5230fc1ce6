"""Progress: what long work reports to; the command line shows it with Rich, the library stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Reports nothing. A subclass overrides `track` and `say`."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """A task of `total` steps; call the yielded function once a step."""
        yield lambda: None

    def say(self, message: str) -> None:
        """One line about what was found or decided."""
