"""The break-even rule against a simulation that counts its forward and backward passes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import RecipeError
from featherweight.train.break_even import Selection

POOL = 900


class Counter:
    """Counts passes, a backward being two."""

    def __init__(self) -> None:
        self.passes = 0

    def forward(self) -> None:
        self.passes += 1

    def backward(self) -> None:
        self.passes += 2


def simulated(score: str, kept: int, epochs: int) -> int:
    """Passes of scoring a pool and training on a part of it."""
    counter = Counter()
    for _ in range(POOL):
        if score != "none":
            counter.forward()
        if score == "gradient":
            counter.backward()
    for _ in range(epochs * kept):
        counter.forward()
        counter.backward()
    return counter.passes


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
@pytest.mark.parametrize("score", ["loss", "gradient"])
@pytest.mark.parametrize("nudge", [-1, 0, 1])
def test_the_rule_is_what_a_count_says(score: str, epochs: int, nudge: int) -> None:
    cost = {"loss": 1, "gradient": 3}[score]
    edge = POOL * (1 - Fraction(cost, 3 * epochs))
    assert edge.denominator == 1
    kept = int(edge) + nudge
    if not 0 <= kept <= POOL:
        return
    selection = Selection(score, epochs)  # type: ignore[arg-type]
    assert selection.cost(kept / POOL) * POOL == pytest.approx(simulated(score, kept, epochs))
    cheaper = simulated(score, kept, epochs) < simulated("none", POOL, epochs)
    assert cheaper == (nudge < 0)
    if nudge:
        assert selection.pays(kept / POOL) == cheaper
    assert selection.break_even == pytest.approx(float(edge) / POOL)


@given(st.floats(0, 1))
def test_gradients_of_everything_never_pay_in_one_epoch(fraction: float) -> None:
    assert not Selection("gradient").pays(fraction)


def test_unless_scores_are_used_again_or_come_cheap() -> None:
    assert Selection("gradient", uses=3).pays(0.5)
    assert Selection("gradient", proxy=0.1).pays(0.5)
    assert Selection("cached").break_even == 1


@pytest.mark.parametrize(("wrong", "said"), [({"score": "luck"}, "luck"), ({"score": "loss", "epochs": 0}, "no sense")])
def test_bad_values(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Selection(**wrong)  # type: ignore[arg-type]
