"""The likeliest choices of a search that keep to its limits, in order: what is worth running one by one.

Every architecture is looked at, and every combination of formats beside it while these are few; of many, the likeliest
that fits is solved for as a knapsack.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from featherweight.core.errors import BudgetError
from featherweight.core.knapsack import allocate
from featherweight.core.lazy import torch
from featherweight.plan.expected import ExpectedCost, Limits
from featherweight.train.decisions import Decisions
from featherweight.train.space import Option

_ENUMERATED = 4096  # combinations of formats


def shortlist(cost: ExpectedCost, limits: Limits, decisions: Decisions, count: int) -> list[dict[str, Option]]:
    """The likeliest choices that keep to the limits; the smallest where the likely ones do not."""
    means = {name: each.detach().double().clamp(min=1e-9).log() for name, each in decisions.probabilities().items()}
    scored: list[tuple[float, dict[str, Option]]] = []
    for architecture in cost.space.architectures():
        score = sum(float(means[name][cost.space.options[name].index(each)]) for name, each in architecture.items())
        scored += [
            (score + more, {**architecture, **formats}) for more, formats in _formats(cost, limits, architecture, means)
        ]
    scored.sort(key=lambda pair: -pair[0])
    allowed = (choice for _, choice in scored if limits.allows(cost, choice))
    return list(itertools.islice(allowed, count)) or [cost.smallest()]


def _formats(
    cost: ExpectedCost, limits: Limits, architecture: Mapping[str, Option], means: Mapping[str, torch.Tensor]
) -> list[tuple[float, dict[str, Option]]]:
    """Formats that fit beside an architecture with their log probability: all of them, or the likeliest of too many."""
    units, rest = cost.by_unit(architecture)
    room = int(limits.most) - rest
    losses = {
        unit: {str(kind): -float(each) for kind, each in zip(cost.space.options[unit], means[unit], strict=True)}
        for unit in units
    }
    if room <= 0:
        return []
    if math.prod(len(row) for row in units.values()) > _ENUMERATED:
        try:
            chosen = allocate({unit: _above_zero(row) for unit, row in losses.items()}, units, room)
        except BudgetError:
            return []
        return [(-sum(losses[unit][kind] for unit, kind in chosen.items()), dict(chosen))]
    found: list[tuple[float, dict[str, Option]]] = []
    for picked in itertools.product(*units.values()):
        pairs = dict(zip(units, picked, strict=True))
        if sum(units[unit][kind] for unit, kind in pairs.items()) <= room:
            found.append((-sum(losses[unit][kind] for unit, kind in pairs.items()), dict(pairs)))
    return found


def _above_zero(row: Mapping[str, float]) -> dict[str, float]:
    least = min(row.values())
    return {kind: loss - least for kind, loss in row.items()}
