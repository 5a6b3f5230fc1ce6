"""The verdict of a bake-off and the choice within a limit, on made-up trials; one small bake-off of real ones."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import BudgetError, RecipeError
from featherweight.plan.optimizer_choice import choose_optimizer, scores, verdict
from featherweight.train.bake_off import Protocol, Trial, bake_off
from featherweight.train.workloads import characters

SHAPES = {"layers.0.w": (64, 64), "norm.weight": (64,)}
RATES = (1e-4, 1e-3, 1e-2)


def trials(name: str, losses: dict[float, tuple[float, ...]], state: int = 1) -> list[Trial]:
    """Made-up trials: for each rate, the losses of the seeds; half-way the loss was one more."""
    return [
        Trial(name, rate, seed, loss, ((50, loss + 1), (100, loss)), 0.01, state, None)
        for rate, seeds in losses.items()
        for seed, loss in enumerate(seeds)
    ]


def grid(name: str, best: tuple[float, ...]) -> list[Trial]:
    """Best in the middle."""
    worse = tuple(each + 1 for each in best)
    return trials(name, dict(zip(RATES, (worse, best, worse), strict=True)))


def test_a_winner_is_named_when_no_seeds_overlap() -> None:
    found = scores([*grid("adamw", (2.0, 2.1)), *grid("muon", (1.8, 1.9))])
    assert verdict(found).winner == "muon"
    assert [each.optimizer for each in found] == ["muon", "adamw"]


def test_no_winner_when_seeds_overlap() -> None:
    answer = verdict(scores([*grid("adamw", (1.85, 2.1)), *grid("muon", (1.8, 1.9))]))
    assert answer.winner is None
    assert "the seeds of muon overlap with those of adamw" in answer.reason


def test_no_winner_over_an_optimizer_whose_tuning_is_not_finished() -> None:
    rest = trials("adamw", dict(zip(RATES, ((4.0, 4.0), (3.0, 3.0), (2.0, 2.1)), strict=True)))
    answer = verdict(scores([*rest, *grid("muon", (1.8, 1.9))]))
    assert answer.winner is None
    assert "the best rate of adamw is the last of its grid" in answer.reason


def test_no_winner_with_one_seed_or_one_optimizer_or_only_divergence() -> None:
    assert "one seed" in verdict(scores([*grid("adamw", (2.0,)), *grid("muon", (1.0,))])).reason
    assert "no comparison" in verdict(scores(grid("adamw", (2.0, 2.1)))).reason
    dead = [*grid("adamw", (math.inf, math.inf)), *grid("muon", (math.inf, math.inf))]
    assert "diverged" in verdict(scores(dead)).reason


@given(
    one=st.lists(st.floats(0.5, 5), min_size=2, max_size=4), two=st.lists(st.floats(0.5, 5), min_size=2, max_size=4)
)  # fmt: skip
def test_a_winner_lies_below_in_every_seed_and_order_does_not_matter(one: list[float], two: list[float]) -> None:
    a, b = grid("adamw", tuple(one)), grid("lion", tuple(two))
    answer = verdict(scores([*a, *b]))
    assert answer == verdict(scores([*b, *a]))
    assert answer.winner == ("adamw" if max(one) < min(two) else "lion" if max(two) < min(one) else None)


def test_scores_count_basin_divergence_and_tokens() -> None:
    losses = {1e-4: (2.01, 2.01), 1e-3: (2.0, 2.0), 1e-2: (2.005, 2.005), 1e-1: (1.0, math.inf)}
    [adamw, sgd] = scores([*trials("adamw", losses, state=7), *grid("sgd", (2.5, 2.6))])
    assert (adamw.learning_rate, adamw.diverged, adamw.trials, adamw.state) == (1e-3, 1, 8, 7)
    assert adamw.basin == pytest.approx(100)
    assert not adamw.edge
    assert adamw.tokens == 100
    assert sgd.tokens is None
    assert sgd.basin == 1


def test_the_choice_filters_by_memory_then_ranks() -> None:
    found = scores([*grid("adamw", (2.0, 2.1)), *grid("muon", (1.8, 1.9)), *grid("sgd", (3.0, 3.1))])
    assert choose_optimizer(SHAPES, 10**6, found).optimizer == "muon"
    tight = choose_optimizer(SHAPES, 100, found)
    assert tight.optimizer == "sgd"
    assert {each.optimizer: each.rejected.startswith("needs") for each in tight.candidates} == {
        "adamw": True, "muon": True, "sgd": False,
    }  # fmt: skip


def test_the_choice_stays_with_adamw_where_nothing_is_clearly_better() -> None:
    found = scores([*grid("adamw", (1.85, 2.1)), *grid("muon", (1.8, 1.9))])
    choice = choose_optimizer(SHAPES, 10**6, found)
    assert choice.optimizer == "adamw"
    assert "overlap" in choice.reason
    # Where AdamW does not fit, the other is used.
    assert choose_optimizer(SHAPES, 64 * 64 * 4 + 512, found).optimizer == "muon"


def test_the_choice_filters_by_support(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scores([*grid("adamw", (2.0, 2.1)), *grid("muon", (1.8, 1.9))])
    vectors = choose_optimizer({"norm.weight": (64,)}, 10**6, found)
    assert vectors.optimizer == "adamw"
    assert "no matrix" in next(each.rejected for each in vectors.candidates if each.optimizer == "muon")
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    missing = scores([*grid("adamw", (2.0, 2.1)), *grid("lion", (1.8, 1.9))])
    assert choose_optimizer(SHAPES, 10**6, missing).optimizer == "adamw"


def test_bad_choices_are_refused() -> None:
    with pytest.raises(RecipeError, match="adamw was not measured"):
        choose_optimizer(SHAPES, 10**6, scores(grid("muon", (1.8, 1.9))))
    with pytest.raises(BudgetError, match=r"is less than any of them needs; give .* for muon"):
        choose_optimizer(SHAPES, 10, scores([*grid("adamw", (2.0, 2.1)), *grid("muon", (1.8, 1.9))]))


def test_a_small_bake_off_is_repeatable_and_sees_divergence() -> None:
    torch.set_num_threads(1)
    workload = characters(length=16, batch=4, held_out=8)
    protocol = Protocol(steps=12, rates=2, factor=1e5, seeds=1, evaluations=3)
    found = bake_off(workload, ["sgd", "adamw"], protocol)
    assert [(each.optimizer, each.seed) for each in found] == [("sgd", 0)] * 2 + [("adamw", 0)] * 2
    again = bake_off(workload, ["adamw"], protocol)
    assert [each.curve for each in again] == [each.curve for each in found[2:]]
    # Rates 300 times too small and too large.
    assert [each.diverged for each in found if each.optimizer == "sgd"] == [False, True]
    tokens = [tokens for tokens, _ in found[2].curve]
    assert tokens == [4 * workload.tokens, 8 * workload.tokens, 12 * workload.tokens]
    assert found[2].loss == found[2].curve[-1][1]
    assert found[2].state > found[0].state == 0


def test_batches_are_the_same_for_everybody_and_differ_by_seed() -> None:
    workload = characters(length=16, batch=4, held_out=8)
    one, two, other = workload.batches(0), workload.batches(0), workload.batches(1)
    assert all(torch.equal(one(step).ids, two(step).ids) for step in range(5))
    assert not torch.equal(one(0).ids, other(0).ids)
    a, b = workload.start(0), workload.start(0)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
