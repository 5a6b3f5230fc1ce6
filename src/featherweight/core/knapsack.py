"""Which format for which tensor under a byte budget: a multiple-choice knapsack, solved exactly.

One choice an item, total cost at most the budget, total loss as small as possible. Solved as an integer programme by
HiGHS (scipy); the linear relaxation of these problems is nearly integral, so a few hundred tensors take well under a
second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from featherweight.core.errors import BudgetError
from featherweight.core.lazy import np

Table = Mapping[str, Mapping[str, float]]
"""A number for every item and choice."""


def allocate(loss: Table, cost: Mapping[str, Mapping[str, int]], budget: int, gap: float = 1e-4) -> dict[str, str]:
    """The choice of every item with the least total loss whose total cost is at most `budget`.

    Args:
        loss: loss of each choice of each item.
        cost: cost of the same choices, in bytes.
        budget: total bytes.
        gap: relative distance to the optimum at which the solver may stop.

    Raises:
        BudgetError: even the cheapest choices cost more.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    kept = {item: _undominated(loss[item], cost[item]) for item in loss}
    pairs = [(item, choice) for item, choices in kept.items() for choice in choices]
    cheapest = sum(min(cost[item][choice] for choice in choices) for item, choices in kept.items())
    if cheapest > budget:
        raise BudgetError(
            f"{budget} bytes of tensors", f"cannot hold the model: its smallest formats take {cheapest}",
            "allow more memory, smaller formats or pruning",
        )  # fmt: skip
    losses = np.array([loss[item][choice] for item, choice in pairs])
    scale = max(float(losses.max()), 1e-30)
    index = {item: row for row, item in enumerate(kept)}
    ones = coo_array(
        (np.ones(len(pairs)), ([index[item] for item, _ in pairs], range(len(pairs)))), shape=(len(kept), len(pairs))
    )
    # Costs in units of the budget keep the solver's tolerances meaningful; the margin keeps its slack out of the bytes.
    weights = np.array([[cost[item][choice] / budget for item, choice in pairs]])
    with _silent():
        solved = milp(
            losses / scale,
            constraints=[LinearConstraint(ones, 1, 1), LinearConstraint(weights, -np.inf, 1 - 1e-9)],
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": gap, "time_limit": 30.0},
        )
    if solved.x is None:
        return _greedy(loss, cost, kept, budget)
    chosen = {item: choice for (item, choice), taken in zip(pairs, solved.x, strict=True) if taken > 0.5}
    total = sum(cost[item][choice] for item, choice in chosen.items())
    return chosen if total <= budget and len(chosen) == len(kept) else _greedy(loss, cost, kept, budget)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps off the terminal a line that HiGHS writes from C whatever its options say."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _undominated(loss: Mapping[str, float], cost: Mapping[str, int]) -> list[str]:
    """Choices that no other choice beats in both loss and cost, cheapest first."""
    kept: list[str] = []
    for choice in sorted(loss, key=lambda name: (cost[name], loss[name], name)):
        if not kept or loss[choice] < loss[kept[-1]]:
            kept.append(choice)
    return kept


def _greedy(
    loss: Table, cost: Mapping[str, Mapping[str, int]], kept: Mapping[str, list[str]], budget: int
) -> dict[str, str]:
    """From the cheapest choices upwards, the step with the most loss saved a byte that still fits."""
    position = dict.fromkeys(kept, 0)
    left = budget - sum(cost[item][choices[0]] for item, choices in kept.items())
    while True:
        best: tuple[float, str, int] | None = None
        for item, choices in kept.items():
            here = choices[position[item]]
            for target in range(position[item] + 1, len(choices)):
                extra = cost[item][choices[target]] - cost[item][here]
                gain = (loss[item][here] - loss[item][choices[target]]) / extra
                if extra <= left and (best is None or gain > best[0]):
                    best = (gain, item, target)
        if best is None:
            return {item: choices[position[item]] for item, choices in kept.items()}
        _, item, target = best
        left -= cost[item][kept[item][target]] - cost[item][kept[item][position[item]]]
        position[item] = target
