"""The likeliest choices of a search that keep to its limits, and those next to a good one: what is worth running.

Every architecture is looked at, and every combination of formats beside it while these are few; of many, the likeliest
that fits is solved for as a knapsack.

Decisions are taken on their own, so a mixture in which each is likely can be far from the best choice: at a tight limit
one more block and two bits instead of four belong together. The choices next to a good one are such exchanges.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

from featherweight.core.errors import BudgetError
from featherweight.core.knapsack import allocate
from featherweight.core.lazy import torch
from featherweight.plan.expected import ExpectedCost, Limits
from featherweight.train.decisions import Decisions
from featherweight.train.space import FORMAT, Choice, Option, Space

_ENUMERATED = 4096  # combinations of formats


def shortlist(cost: ExpectedCost, limits: Limits, decisions: Decisions, count: int) -> list[dict[str, Option]]:
    """The likeliest choices that keep to the limits; the smallest where the likely ones do not."""
    means = _logarithms(decisions)
    scored: list[tuple[float, dict[str, Option]]] = []
    for architecture in cost.space.architectures():
        score = sum(float(means[name][cost.space.options[name].index(each)]) for name, each in architecture.items())
        scored += [
            (score + more, {**architecture, **formats}) for more, formats in _formats(cost, limits, architecture, means)
        ]
    scored.sort(key=lambda pair: -pair[0])
    allowed = (choice for _, choice in scored if limits.allows(cost, choice))
    return list(itertools.islice(allowed, count)) or [cost.smallest()]


def neighbours(cost: ExpectedCost, limits: Limits, decisions: Decisions, choice: Choice) -> list[dict[str, Option]]:
    """Choices next to one that keep to the limits, the likeliest first.

    Those are: a size's next option, alone or with the opposite step of another size, and the formats likeliest beside
    it; and the next format of some matrices, where that needs room with the next shorter one of others.
    """
    means = _logarithms(decisions)
    sizes = {name: option for name, option in choice.items() if not name.startswith(FORMAT)}
    near: list[dict[str, Option]] = []
    for architecture in _next_sizes(cost.space, sizes):
        found = _formats(cost, limits, architecture, means)
        near += [{**architecture, **max(found, key=lambda pair: pair[0])[1]}] if found else []
    near += _exchanges(cost, limits, choice, sizes)
    near.sort(key=lambda each: -decisions.log_probability(each))
    return [each for each in near if limits.allows(cost, each)]


def _logarithms(decisions: Decisions) -> dict[str, torch.Tensor]:
    return {name: each.detach().double().clamp(min=1e-9).log() for name, each in decisions.probabilities().items()}


def _next_sizes(space: Space, sizes: Choice) -> Iterator[dict[str, Option]]:
    """Sizes with one step up, one step down, or both."""
    place = {name: space.options[name].index(option) for name, option in sizes.items()}
    up = [{name: place[name] + 1} for name in sizes if place[name] + 1 < len(space.options[name])]
    down = [{name: place[name] - 1} for name in sizes if place[name] > 0]
    both = [{**more, **less} for more in up for less in down if more.keys() != less.keys()]
    for moved in (*up, *down, *both):
        yield {**sizes, **{name: space.options[name][index] for name, index in moved.items()}}


def _exchanges(cost: ExpectedCost, limits: Limits, choice: Choice, sizes: Choice) -> Iterator[dict[str, Option]]:
    """One format longer, alone where that fits, else with another one shorter."""
    units, rest = cost.by_unit(sizes)
    by_size = {unit: sorted(row, key=lambda kind: (row[kind], kind)) for unit, row in units.items()}
    place = {unit: kinds.index(str(choice[unit])) for unit, kinds in by_size.items()}
    room = int(limits.most) - rest - sum(row[str(choice[unit])] for unit, row in units.items())

    def step(unit: str, by: int) -> tuple[str, int] | None:
        """The next format and what it takes more."""
        if not 0 <= place[unit] + by < len(by_size[unit]):
            return None
        kind = by_size[unit][place[unit] + by]
        return kind, units[unit][kind] - units[unit][str(choice[unit])]

    for unit in units:
        longer = step(unit, 1)
        if longer is None:
            continue
        if longer[1] <= room:
            yield {**choice, unit: longer[0]}
            continue
        for other in units:
            shorter = step(other, -1) if other != unit else None
            if shorter is not None and longer[1] + shorter[1] <= room:
                yield {**choice, unit: longer[0], other: shorter[0]}


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
