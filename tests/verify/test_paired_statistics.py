"""Paired counts: McNemar's oracles, swapped models, Newcombe's interval, Holm's correction."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.rates import wilson
from featherweight.verify.paired_statistics import Paired, holm, mcnemar, newcombe

TABLES = st.builds(Paired, *[st.integers(0, 300)] * 4)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(5, 0, 0.03125), (8, 1, 0.0195), (10, 2, 0.0193), (12, 4, 0.0384), (0, 0, 1.0), (0, 3, 1.0)],
)
def test_mcnemar_is_exact_and_one_sided(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p, abs=5e-5)


@given(st.integers(0, 60), st.integers(0, 60))
def test_both_one_sided_tests_share_the_tie(lost: int, gained: int) -> None:
    tie = mcnemar(lost, gained) + mcnemar(gained, lost) - 1
    assert 0 <= tie <= 1
    assert mcnemar(lost + 1, gained) <= mcnemar(lost, gained)


@given(TABLES)
def test_swapping_negates(table: Paired) -> None:
    other = table.swapped()
    assert (other.lost, other.gained, other.loss) == (table.gained, table.lost, -table.loss)
    assert newcombe(other) == pytest.approx([-each for each in reversed(newcombe(table))])


@given(TABLES)
def test_an_interval_holds_its_estimate(table: Paired) -> None:
    low, high = newcombe(table)
    assert -1 <= low <= table.loss + 1e-12
    assert table.loss - 1e-12 <= high <= 1


def test_newcombe_of_models_that_never_differ_is_wilsons() -> None:
    low, high = newcombe(Paired(400, 0, 0, 0))
    assert high == pytest.approx(1 - wilson(400, 400)[0])
    assert low == -high
    assert newcombe(Paired(0, 0, 0, 0)) == (-1.0, 1.0)


def test_newcombe_of_a_published_table() -> None:
    """Complete response before and after consolidation therapy: -0.0621 (-0.1186 to -0.0046)."""
    table = Paired(59, 6, 16, 80)
    assert table.loss == pytest.approx(-0.0621, abs=5e-5)
    assert newcombe(table) == pytest.approx((-0.1186, -0.0046), abs=5e-5)


def test_newcombe_is_narrower_for_answers_that_go_together() -> None:
    together, apart = newcombe(Paired(150, 12, 8, 30)), newcombe(Paired(124, 38, 34, 4))
    assert Paired(150, 12, 8, 30).loss == Paired(124, 38, 34, 4).loss
    assert together[1] - together[0] < apart[1] - apart[0]


def test_outcomes_are_counted() -> None:
    outcomes = [(True, True), (True, False), (True, False), (False, True), (False, False)]
    assert Paired.of(outcomes) == Paired(1, 2, 1, 1)
    facts = Paired.of(outcomes).to_dict()
    assert (facts["lost"], facts["gained"], facts["parent"]["hits"], facts["child"]["hits"]) == (2, 1, 3, 2)


def test_holm_by_hand() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert list(found.values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm({}) == {}


@given(st.dictionaries(st.text(), st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_helps_a_p_value_and_keeps_their_order(values: dict[str, float]) -> None:
    found = holm(values)
    assert all(values[name] <= found[name] <= 1 for name in values)
    ordered = sorted(values, key=lambda name: values[name])
    assert all(found[one] <= found[other] for one, other in itertools.pairwise(ordered))
