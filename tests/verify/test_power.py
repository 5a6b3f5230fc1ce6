"""The power table, and how many cases a margin takes."""

from __future__ import annotations

import pytest

from featherweight.verify.power import FEWEST, cases_needed, chance_to_show, power_statement, power_table


@pytest.mark.parametrize(
    ("rate", "count", "chance"),
    [(0.05, 100, 0.56), (0.05, 200, 0.97), (0.02, 200, 0.37), (0.02, 400, 0.90), (0.01, 800, 0.90)],
)
def test_the_chance_of_five_flips(rate: float, count: int, chance: float) -> None:
    assert chance_to_show(count, rate) == pytest.approx(chance, abs=0.005)
    assert {"loss": rate, "count": count, "chance": chance_to_show(count, rate)} in power_table()


def test_a_margin_takes_as_many_cases_as_show_it() -> None:
    assert cases_needed(0.05) == FEWEST == 200
    for margin in (0.02, 0.01, 0.003):
        needed = cases_needed(margin)
        assert chance_to_show(needed, margin) >= 0.9 > chance_to_show(needed - 1, margin)
    assert 395 <= cases_needed(0.02) <= 400
    assert 795 <= cases_needed(0.01) <= 800


def test_few_cases_show_nothing() -> None:
    assert chance_to_show(4, 0.9) == 0
    assert chance_to_show(0, 0.5) == 0


def test_it_says_what_is_missing() -> None:
    assert power_statement(200, 0.02) == "200 cases show a loss of 2.0% with a chance of 37%; 398 are needed"
    assert "needed" not in power_statement(400, 0.02)
