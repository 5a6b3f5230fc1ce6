"""The allocation under a byte budget: never over, never worse than any other choice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import BudgetError
from featherweight.core.knapsack import allocate


def total(table: dict[str, dict[str, float]], chosen: dict[str, str]) -> float:
    return sum(table[item][choice] for item, choice in chosen.items())


problems = st.lists(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=6
)


@settings(max_examples=80, deadline=None)
@given(problems, st.floats(0, 1))
def test_optimal_and_within_budget(items: list[list[tuple[int, float]]], share: float) -> None:
    cost = {f"t{i}": {f"f{j}": pair[0] for j, pair in enumerate(pairs)} for i, pairs in enumerate(items)}
    loss = {f"t{i}": {f"f{j}": pair[1] for j, pair in enumerate(pairs)} for i, pairs in enumerate(items)}
    low = sum(min(row.values()) for row in cost.values())
    high = sum(max(row.values()) for row in cost.values())
    budget = int(low + share * (high - low))
    chosen = allocate(loss, cost, budget)
    assert set(chosen) == set(cost)
    assert total(cost, chosen) <= budget  # type: ignore[arg-type]
    every = [dict(zip(loss, choice, strict=True)) for choice in itertools.product(*loss.values())]
    best = min(total(loss, each) for each in every if total(cost, each) <= budget)  # type: ignore[arg-type]
    largest = max(max(row.values()) for row in loss.values())
    assert total(loss, chosen) <= best + 1e-3 * max(best, largest * 0.01) + 1e-6


def test_too_little_is_refused() -> None:
    with pytest.raises(BudgetError, match="smallest formats take 30"):
        allocate({"a": {"x": 1.0}, "b": {"x": 1.0}}, {"a": {"x": 10}, "b": {"x": 20}}, 29)


def test_more_bytes_never_hurt() -> None:
    loss = {f"t{i}": {"low": 1.0 + i, "middle": 0.4, "high": 0.0} for i in range(12)}
    cost = {f"t{i}": {"low": 100, "middle": 150 + 7 * i, "high": 400} for i in range(12)}
    losses = [total(loss, allocate(loss, cost, budget)) for budget in range(1200, 4801, 300)]
    assert losses == sorted(losses, reverse=True)
