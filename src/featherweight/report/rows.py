"""Plain rows for the reports that machines read: one checked thing each, whoever checked it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

State = Literal["passed", "failed", "unknown", "error"]
"""`unknown`: it could not be told. Only `passed` is good news, in every format."""

_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Row:
    """One checked thing.

    Attributes:
        group: what it belongs to, such as "direct" or "quality".
        name: unique in its group.
        state: what came of it.
        message: one sentence; empty where there is nothing to say.
        detail: more text, such as an answer; may be empty.
        file, line: where the thing is declared; empty and 0 = nowhere.
        seconds: what it took.
        digest: identifies the thing across runs; may be empty.
    """

    group: str
    name: str
    state: State
    message: str = ""
    detail: str = ""
    file: str = ""
    line: int = 0
    seconds: float = 0.0
    digest: str = ""


def writable(text: str) -> str:
    """The text with everything that XML cannot hold, such as control characters, shown as a replacement character."""
    return _UNWRITABLE.sub("\ufffd", text)
