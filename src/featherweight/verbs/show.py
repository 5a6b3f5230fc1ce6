"""show: what is known of a technique beyond its declaration: the last verdict of its claim."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def claims() -> dict[str, dict[str, Any]]:
    """The last verdict of every claim that was run, by technique name."""
    path = resources.files("featherweight.techniques").joinpath("verdicts.json")
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def claim_verdict(name: str) -> str:
    """One sentence on what a technique was measured to do."""
    found = claims().get(name)
    return f"{found['verdict']}: {found['summary']}" if found else "no claim was run for it yet"
