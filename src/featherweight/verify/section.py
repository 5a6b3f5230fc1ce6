"""One part of a verification: its checks, and the measured facts that they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featherweight.verify.gate import Check, Verdict, overall


@dataclass(frozen=True)
class Section:
    """What one part of `verify` found.

    Attributes:
        name: such as "quality", "safety" or "layers".
        checks: each with its verdict and reason; empty where the part informs and decides nothing.
        facts: plain JSON values, for the record and for the page.
    """

    name: str
    checks: tuple[Check, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Of all its checks together."""
        return overall(list(self.checks))
