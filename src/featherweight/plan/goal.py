"""Goal: a budget made concrete for one parent, and the test whether measured numbers meet it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featherweight.core.budget import Budget, format_bytes

CRITERIA = ("memory", "latency", "resident", "quality")


@dataclass(frozen=True)
class Measured:
    """What was measured of one exported or exportable model; None where it was not.

    Attributes:
        memory: bytes of the file.
        quality: lower end of the interval of parent perplexity / child perplexity.
        latency: seconds a decoded token.
        resident: peak resident bytes of a fresh process.
    """

    memory: int
    quality: float
    latency: float | None = None
    resident: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Goal:
    """Limits in absolute units; None = no limit."""

    memory: int | None = None
    quality: float | None = None
    latency: float | None = None
    resident: int | None = None

    @classmethod
    def of(cls, budget: Budget, parent_bytes: int) -> Goal:
        """The goal that a budget sets for a parent whose bf16 file takes `parent_bytes`."""
        return cls(budget.memory_bytes(parent_bytes), budget.quality, budget.latency, budget.resident)

    def misses(self, measured: Measured) -> list[str]:
        """The criteria that are not met, by name; one byte over is a miss, and so is what was not measured."""
        missed = []
        for name in CRITERIA:
            limit, value = getattr(self, name), getattr(measured, name)
            if limit is None:
                continue
            if value is None or (value < limit if name == "quality" else value > limit):
                missed.append(name)
        return missed

    def without(self, name: str) -> Goal:
        """The same goal with one limit lifted."""
        return Goal(**{**self.__dict__, name: None})

    def describe(self) -> dict[str, str]:
        """The limits for people."""
        shown = {}
        if self.memory is not None:
            shown["memory"] = f"at most {format_bytes(self.memory)}"
        if self.resident is not None:
            shown["resident"] = f"at most {format_bytes(self.resident)}"
        if self.latency is not None:
            shown["latency"] = f"at most {self.latency * 1000:.1f} ms a token"
        if self.quality is not None:
            shown["quality"] = f"at least {self.quality:.1%}"
        return shown
