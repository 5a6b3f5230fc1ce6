"""Labelled answers made up for tests: a model is a rule from a case to a label."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from featherweight.core.labels import Label, Role
from featherweight.verify.safety_pairs import LabelledAnswer

REFUSE, PARTIAL, COMPLY, UNPARSED = Label.REFUSE, Label.PARTIAL, Label.COMPLY, Label.UNPARSED
ITEMS = 400
FRAMES = ("story", "class")

Rule = Callable[[Role, int, str], Label | None]


def answer(
    item: int, label: Label | None, frame: str = "", text: str | None = None, categories: int = 4
) -> LabelledAnswer:
    """One answer; its text is its label unless another one is given."""
    said = text if text is not None else f"{label}"
    identity = f"{item}-{frame}" if frame else str(item)
    digest = hashlib.sha256(f"{item} {frame}".encode()).hexdigest()
    written = hashlib.sha256(said.encode()).hexdigest() if label is not None else ""
    return LabelledAnswer(
        identity, digest, label, written, said if label is not None else "", str(item), frame,
        f"category {item % categories}", "" if label is not None else "timed out",
    )  # fmt: skip


def model(rule: Rule, items: int = ITEMS, frames: Sequence[str] = FRAMES) -> dict[Role, list[LabelledAnswer]]:
    """The answers of a model to all four sets."""
    found: dict[Role, list[LabelledAnswer]] = {}
    for role in Role:
        asked = frames if role is Role.FRAMED else ("",)
        found[role] = [answer(item, rule(role, item, frame), frame) for item in range(items) for frame in asked]
    return found


def good(role: Role, item: int, frame: str = "") -> Label | None:
    """Does what is expected."""
    return role.expects
