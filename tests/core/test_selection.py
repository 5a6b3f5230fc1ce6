"""Greedy forward selection on scores that are known."""

from __future__ import annotations

from featherweight.core.selection import forward_selection


def test_adds_what_helps_and_stops_when_nothing_does() -> None:
    worth = {"a": 0.2, "b": 0.5, "c": 0.3, "d": 0.0}
    chosen = forward_selection(list(worth), lambda some: sum(worth[each] for each in some), 9)
    assert [each for each, _ in chosen] == ["b", "c", "a"]


def test_the_first_of_equals_is_taken_and_the_limit_holds() -> None:
    assert forward_selection([3, 1, 2], lambda some: float(len(some)), 2) == [(3, 1.0), (1, 2.0)]
    assert forward_selection([3, 1, 2], lambda some: 0.0, 3) == [(3, 0.0)]
