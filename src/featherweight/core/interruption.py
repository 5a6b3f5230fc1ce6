"""Ctrl-C as a wish: long work ends at its next safe point instead of anywhere; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Interruption:
    """Whether the user asked to stop."""

    asked: bool = False


@contextmanager
def noticed_interruption() -> Iterator[Interruption]:
    """While it is open, the first Ctrl-C only sets `asked`. Outside the main thread nothing is caught."""
    found = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = signal.getsignal(signal.SIGINT)

    def notice(number: int, frame: Any) -> None:
        found.asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, notice)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
