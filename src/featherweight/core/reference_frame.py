"""Ranks alternatives against a declared frame: veto by floors, cap at targets, then closeness (arXiv 2606.07253).

A frame is a veto and a desired level for each criterion, declared before anything is measured. Three ways to score what
is not vetoed:

- `anchored` runs each criterion from its veto (0) to its desired level (1). A score depends on the alternative and on
  the frame alone: adding or removing others changes no bit of it, so no ranks are reversed, and runs are comparable.
- `vector` vetoes and caps, then divides each column by its Euclidean norm and takes the best and worst values present
  as ideal and anti-ideal. `classical` is the same without veto and cap: TOPSIS.
- `min-max` is classical with columns stretched from their least to their largest value. These three depend on what
  else is there; they are controls.

In all of them a score is D- / (D+ + D-) from the weighted distances to the worst and to the best. Limits: whoever
decides must know both levels; what lies beyond a desired level counts for nothing; a veto is a cliff; weights stay a
matter of judgement. Cost: m alternatives and n criteria take m x n steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from featherweight.core.errors import BudgetError, nearest

Method = Literal["anchored", "vector", "classical", "min-max"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Criterion:
    """One way in which alternatives differ.

    Attributes:
        name: key in the alternatives.
        veto: level that must be reached; beyond it an alternative is out. Without end: nothing is vetoed.
        desired: level from which on more is not better. Without end: more is always better.
        weight: share of the decision.
        benefit: more is better (True) or less is (False).
    """

    name: str
    veto: float
    desired: float
    weight: float
    benefit: bool = True

    def __post_init__(self) -> None:
        if not (self.veto < self.desired if self.benefit else self.veto > self.desired):
            raise BudgetError(
                f"criterion {self.name}", f"has its veto {self.veto} beyond its desired level {self.desired}",
                "set the desired level better than the veto",
            )  # fmt: skip
        if not 0 <= self.weight < math.inf:
            raise BudgetError(
                f"criterion {self.name}", f"has the weight {self.weight}", "give a share of the decision, 0 or more"
            )

    def vetoed(self, value: float) -> bool:
        """Whether a value is beyond the veto; one that is not a number is."""
        return not (value >= self.veto if self.benefit else value <= self.veto)

    def capped(self, value: float) -> float:
        """The value, at most as good as the desired level."""
        return min(value, self.desired) if self.benefit else max(value, self.desired)

    def position(self, value: float) -> float:
        """0 at the veto, 1 at the desired level and better."""
        return (self.capped(value) - self.veto) / (self.desired - self.veto)

    def open(self) -> Criterion:
        """The same without veto and desired level."""
        end = math.inf if self.benefit else -math.inf
        return dataclasses.replace(self, veto=-end, desired=end)


@dataclass(frozen=True)
class Ranking:
    """What is acceptable, best first, and what is not. Nothing acceptable is an answer, not an error.

    Attributes:
        ranked: names with their closeness from 0 to 1; ties keep the given order.
        vetoed: for each name that is out, the criteria that it misses.
    """

    ranked: tuple[tuple[str, float], ...]
    vetoed: Mapping[str, tuple[str, ...]]

    @property
    def best(self) -> str | None:
        """The name of the best one; None where nothing is acceptable."""
        return self.ranked[0][0] if self.ranked else None


def rank(
    alternatives: Mapping[str, Mapping[str, float]], criteria: Sequence[Criterion], method: Method = "anchored"
) -> Ranking:
    """Alternatives in the order of their closeness to the desired levels.

    Args:
        alternatives: by name, each with a value for every criterion.
        criteria: the frame.
        method: how what is not vetoed is scored.

    Raises:
        BudgetError: there is no such method, no weight, or a level without end where the frame is all there is.
    """
    if method not in METHODS:
        raise BudgetError(f"ranking {method!r}", "is unknown", nearest(method, METHODS) or f"use {', '.join(METHODS)}")
    if method in ("classical", "min-max"):
        criteria = [criterion.open() for criterion in criteria]
    vetoed = {name: misses(values, criteria) for name, values in alternatives.items()}
    accepted = [name for name in alternatives if not vetoed[name]]
    scores = [_position_score(alternatives[name], criteria) for name in accepted] if method == "anchored" else (
        _relative_scores([alternatives[name] for name in accepted], criteria, method == "min-max")
    )  # fmt: skip
    ranked = sorted(zip(accepted, scores, strict=True), key=lambda pair: -pair[1])
    return Ranking(tuple(ranked), {name: missed for name, missed in vetoed.items() if missed})


def misses(alternative: Mapping[str, float], criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """Names of the criteria whose veto an alternative is beyond."""
    return tuple(criterion.name for criterion in criteria if criterion.vetoed(alternative[criterion.name]))


def closeness(alternative: Mapping[str, float], criteria: Sequence[Criterion]) -> float | None:
    """How close an alternative is to the desired levels, from 0 (all at veto) to 1; None when it is vetoed."""
    return None if misses(alternative, criteria) else _position_score(alternative, criteria)


def _position_score(alternative: Mapping[str, float], criteria: Sequence[Criterion]) -> float:
    shares = _shares(criteria)
    endless = next((each for each in criteria if not math.isfinite(each.desired - each.veto)), None)
    if endless is not None:
        raise BudgetError(
            f"criterion {endless.name}", f"runs from {endless.veto} to {endless.desired}, where nothing has a position",
            "set both levels, or rank by 'vector'",
        )  # fmt: skip
    positions = [criterion.position(alternative[criterion.name]) for criterion in criteria]
    return _score(
        [share - share * position for share, position in zip(shares, positions, strict=True)],
        [share * position for share, position in zip(shares, positions, strict=True)],
    )


def _relative_scores(
    alternatives: Sequence[Mapping[str, float]], criteria: Sequence[Criterion], stretched: bool
) -> list[float]:
    """Scores against the best and worst values that are present."""
    to_best: list[list[float]] = [[] for _ in alternatives]
    to_worst: list[list[float]] = [[] for _ in alternatives]
    if not alternatives:
        return []
    for criterion, share in zip(criteria, _shares(criteria), strict=True):
        column = [criterion.capped(values[criterion.name]) for values in alternatives]
        low, high = min(column), max(column)
        scale = high - low if stretched else math.hypot(*column)
        best, worst = (high, low) if criterion.benefit else (low, high)
        for row, value in enumerate(column):
            to_best[row].append(share * (value - best) / (scale or 1.0))
            to_worst[row].append(share * (value - worst) / (scale or 1.0))
    return [_score(best, worst) for best, worst in zip(to_best, to_worst, strict=True)]


def _shares(criteria: Sequence[Criterion]) -> list[float]:
    total = sum(criterion.weight for criterion in criteria)
    if not total > 0:
        raise BudgetError("the criteria", "have no weight", "give at least one of them a weight above 0")
    return [criterion.weight / total for criterion in criteria]


def _score(to_best: Sequence[float], to_worst: Sequence[float]) -> float:
    """Closeness from weighted differences; where all are alike, each is as near to the best as to the worst."""
    best = math.sqrt(sum(each**2 for each in to_best))
    worst = math.sqrt(sum(each**2 for each in to_worst))
    return worst / (best + worst) if best + worst else 0.5
