"""Ranks alternatives against declared frames: veto by floors, cap at targets, anchored closeness (arXiv 2606.07253).

An alternative's score depends on itself and on the declared veto and desired levels, never on the other alternatives:
adding or removing one cannot reorder the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.errors import BudgetError


@dataclass(frozen=True)
class Criterion:
    """One way in which alternatives differ.

    Attributes:
        name: key in the alternatives.
        veto: level that must be reached; beyond it an alternative is out.
        desired: level from which on more is not better.
        weight: share of the decision.
        benefit: more is better (True) or less is (False).
    """

    name: str
    veto: float
    desired: float
    weight: float
    benefit: bool = True

    def __post_init__(self) -> None:
        if self.veto == self.desired or (self.veto > self.desired) == self.benefit:
            raise BudgetError(
                f"criterion {self.name}", f"has its veto {self.veto} beyond its desired level {self.desired}",
                "set the desired level better than the veto",
            )  # fmt: skip

    def vetoed(self, value: float) -> bool:
        return value < self.veto if self.benefit else value > self.veto

    def position(self, value: float) -> float:
        """0 at the veto, 1 at the desired level and better."""
        capped = min(value, self.desired) if self.benefit else max(value, self.desired)
        return (capped - self.veto) / (self.desired - self.veto)


def closeness(alternative: Mapping[str, float], criteria: Sequence[Criterion]) -> float | None:
    """How close an alternative is to the desired levels, from 0 (all at veto) to 1; None when it is vetoed."""
    if any(criterion.vetoed(alternative[criterion.name]) for criterion in criteria):
        return None
    total = sum(criterion.weight for criterion in criteria)
    weighted = [(criterion.weight / total, criterion.position(alternative[criterion.name])) for criterion in criteria]
    to_best = math.sqrt(sum((weight - weight * position) ** 2 for weight, position in weighted))
    to_worst = math.sqrt(sum((weight * position) ** 2 for weight, position in weighted))
    return to_worst / (to_best + to_worst)


def rank(alternatives: Mapping[str, Mapping[str, float]], criteria: Sequence[Criterion]) -> list[tuple[str, float]]:
    """The alternatives that are not vetoed with their closeness, best first; ties keep the given order."""
    scored = [(name, closeness(values, criteria)) for name, values in alternatives.items()]
    return sorted(((name, score) for name, score in scored if score is not None), key=lambda pair: -pair[1])
