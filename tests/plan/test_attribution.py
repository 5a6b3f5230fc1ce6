"""What a grid's scores come from: planted effects are found, noise is called noise, designs need not be balanced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import DataError, RecipeError
from featherweight.measure.quality import RESAMPLES
from featherweight.plan.attribution import BACKBONE, INTERACTION, OBJECTIVE, ROWS, SEED, TERMS, Attribution
from featherweight.plan.findings import findings
from featherweight.plan.grid import Outcome
from featherweight.plan.judging_rows import judging_noise
from featherweight.plan.spending import Prices, advice
from featherweight.plan.standing import orders, standings
from featherweight.train.cells import UNTRAINED, Cell, Trial

BACKBONES, OBJECTIVES, AMOUNTS, SEEDS = ("a", "b", "c"), ("x", "y"), (100, 400, 1600), range(3)
Score = Callable[[Cell], float]


def cells() -> list[Cell]:
    return [Cell(*each) for each in itertools.product(BACKBONES, OBJECTIVES, AMOUNTS, SEEDS)]


def noisy(score: Score, size: float = 0.01, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, size, len(cells()))
    return [score(cell) + each for cell, each in zip(cells(), noise, strict=True)]


def fit(score: Score, size: float = 0.01, seed: int = 0) -> Attribution:
    return Attribution(cells(), noisy(score, size, seed))


def outcomes(score: Score, size: float = 0.0, tasks: tuple[str, ...] = ("t",), seed: int = 0) -> list[Outcome]:
    scores = noisy(score, size, seed)
    return [
        Outcome(cell, Trial(dict.fromkeys(tasks, each), each, 10, 100, 5), 1e-3)
        for cell, each in zip(cells(), scores, strict=True)
    ]


def shares(found: Attribution) -> dict[str, float]:
    return {each.term: each.share.value for each in found.shares}


def test_a_backbone_that_decides_everything() -> None:
    found = fit(lambda cell: {"a": 0.9, "b": 0.5, "c": 0.4}[cell.backbone])
    assert shares(found)[BACKBONE] > 0.98
    [backbone] = [each for each in found.shares if each.term == BACKBONE]
    assert backbone.share.interval[0] > 0.95
    assert backbone.degrees == 2
    assert backbone.chance == pytest.approx(2 / 53)


def test_data_that_decides_everything_and_its_slope() -> None:
    found = fit(lambda cell: 0.1 * math.log2(cell.rows))
    assert shares(found)[ROWS] > 0.98
    slope = found.effect(ROWS)
    assert slope.value == pytest.approx(0.1, abs=0.005)
    assert slope.interval[0] < 0.1 < slope.interval[1]


def test_levels_are_distances_from_their_mean_and_slopes_are_by_backbone() -> None:
    found = fit(lambda cell: {"a": 0.3, "b": 0.0, "c": -0.3}[cell.backbone] * math.log2(cell.rows / 400), 0.001)
    assert shares(found)[INTERACTION] > 0.98
    assert [round(found.slope(name).value, 2) for name in BACKBONES] == [0.3, 0.0, -0.3]
    found = fit(lambda cell: {"a": 0.5, "b": 0.2, "c": 0.2}[cell.backbone], 0.0)
    assert [round(found.effect(BACKBONE, name).value, 6) for name in BACKBONES] == [0.2, -0.1, -0.1]


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_shares_of_a_balanced_grid_add_up_to_one(seed: int) -> None:
    found = shares(Attribution(cells(), np.random.default_rng(seed).normal(size=len(cells())).tolist()))
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(0 <= each <= 1 for each in found.values())
    assert set(found) == {*TERMS, "residual"}


def test_noise_gives_each_term_its_chance_on_average() -> None:
    draws = [shares(fit(lambda cell: 0.0, 1.0, seed)) for seed in range(60)]
    chance = {each.term: each.chance for each in fit(lambda cell: 0.0, 1.0).shares}
    for term, expected in chance.items():
        assert np.mean([each[term] for each in draws]) == pytest.approx(expected, abs=0.03), term


def test_scores_that_are_all_alike_come_from_nothing() -> None:
    assert set(shares(Attribution(cells(), [0.5] * len(cells()))).values()) == {0.0}


def test_a_missing_cell_does_not_lend_its_effect_to_others() -> None:
    kept = [each for each in cells() if not (each.backbone == "a" and each.rows == 1600)]
    found = Attribution(kept, [{"a": 0.9, "b": 0.5, "c": 0.4}[each.backbone] for each in kept])
    assert shares(found)[ROWS] == pytest.approx(0.0, abs=1e-9)
    assert found.effect(BACKBONE, "a").value == pytest.approx(0.3)


def test_a_factor_with_one_level_has_no_share() -> None:
    some = [each for each in cells() if each.objective == "x" and each.rows == 100]
    found = Attribution(some, [0.1 * ord(each.backbone) for each in some])
    assert shares(found)[OBJECTIVE] == shares(found)[ROWS] == shares(found)[INTERACTION] == 0
    assert found.effect(ROWS).value == 0


def test_the_intervals_cover_what_was_planted() -> None:
    inside = 0
    for seed in range(40):
        low, high = fit(lambda cell: 0.02 * math.log2(cell.rows), 0.05, seed).effect(ROWS).interval
        inside += low < 0.02 < high
    assert inside >= 34


def test_a_grid_without_repeats_has_no_intervals() -> None:
    few = [Cell("a", "x", 100, 0), Cell("b", "x", 100, 0), Cell("c", "x", 100, 0)]
    found = Attribution(few, [0.1, 0.2, 0.4])
    assert shares(found)[BACKBONE] == pytest.approx(1.0)
    assert math.isnan(found.effect(BACKBONE, "c").interval[0])
    with pytest.raises(DataError, match="cannot be told apart"):
        Attribution(few[:2], [0.1, 0.2])


def test_ranks_are_made_within_tasks() -> None:
    found = outcomes(lambda cell: {"a": 0.9, "b": 0.5, "c": 0.4}[cell.backbone], tasks=("t", "u", "v"))
    for each in found:
        scores = dict(each.trial.scores)
        scores["u"] = {"a": 0.1, "b": 0.2, "c": 0.3}[each.cell.backbone]
        object.__setattr__(each.trial, "scores", scores)
    ranked = standings(found, [], lambda each: each.cell.backbone)
    assert [each.name for each in ranked] == ["a", "b", "c"]
    assert [each.rank.value for each in ranked] == pytest.approx([5 / 3, 2.0, 7 / 3])
    assert ranked[0].rank.interval == (1.0, 3.0)
    assert ranked[0].baseline is None
    alone = standings(outcomes(lambda cell: 0.5), [], lambda each: each.cell.backbone)
    assert {each.rank.value for each in alone} == {2.0}  # equal ones share their ranks
    assert math.isnan(alone[0].rank.interval[0])


def test_an_order_that_turns_around_with_more_data() -> None:
    def crossing(cell: Cell) -> float:
        return {"a": 0.5, "b": 0.1 * math.log2(cell.rows / 400) + 0.5, "c": 0.0}[cell.backbone]

    quiet = np.zeros((RESAMPLES, len(cells())))
    found = {(each.first, each.second): each for each in orders(outcomes(crossing, 0.005), quiet)}
    assert found["a", "b"].flips == "yes"
    assert found["a", "b"].least.value > 0 > found["a", "b"].most.value
    assert found["a", "c"].flips == found["b", "c"].flips == "no"
    unclear = orders(outcomes(lambda cell: 0.0, 1.0), quiet)
    assert all(each.flips in ("no", "perhaps") for each in unclear)


def judged(hits: dict[str, np.ndarray]) -> list[Outcome]:
    """Every cell of a backbone is right on the same rows."""
    return [
        Outcome(cell, Trial({"t": float(hits[cell.backbone].mean())}, 0.0, 10, 100, 5,
                            rows={"t": tuple(hits[cell.backbone].tolist())}), 1e-3)
        for cell in cells()
    ]  # fmt: skip


def test_a_lead_that_hangs_on_the_rows_that_judge_is_no_lead() -> None:
    drawn = np.random.default_rng(0).integers(0, 2, (3, 100))
    found = judged(dict(zip(BACKBONES, drawn, strict=True)))
    trials = [each.trial for each in found]
    noise = judging_noise(trials)
    assert noise.shape == (RESAMPLES, len(found))
    assert noise.std(0) == pytest.approx(drawn.std(1).repeat(18) / 10, rel=0.1)
    assert np.abs(noise[:, :18] - noise[:, :1]).max() < 1e-12  # the same rows, the same luck
    blind = Attribution([each.cell for each in found], [each.score for each in found])
    seeing = Attribution([each.cell for each in found], [each.score for each in found], noise=noise)
    low, high = seeing.effect(BACKBONE, "a").interval
    assert low < 0 < high
    assert blind.effect(BACKBONE, "a").interval[0] > 0 or blind.effect(BACKBONE, "a").interval[1] < 0
    assert findings(found).advice.spend_on is None


def test_a_lead_on_all_rows_stays() -> None:
    right = np.ones(200)
    right[::10] = 0
    worse = right.copy()
    worse[1::4] = 0
    found = findings(judged({"a": right, "b": worse, "c": worse}))
    assert found.advice.spend_on == BACKBONE
    assert all(each.flips == "no" for each in found.orders)


def test_money_goes_to_the_largest_sure_gain_for_its_cost() -> None:
    def score(cell: Cell) -> float:
        return {"a": 0.3, "b": 0.0, "c": 0.0}[cell.backbone] + 0.05 * math.log2(cell.rows)

    found = outcomes(score, 0.005)
    cheap = findings(found, Prices()).advice
    assert cheap.spend_on == BACKBONE
    assert cheap.steps[0].gain.value == pytest.approx(0.2, abs=0.01)
    assert cheap.steps[1].factor == ROWS
    assert cheap.steps[1].what == "twice the rows (3,200)"
    found = outcomes(lambda cell: 0.05 * score(cell) + 0.1 * math.log2(cell.rows), 0.005)
    assert findings(found, Prices()).advice.spend_on == ROWS
    priced = findings(found, Prices(row=1.0)).advice
    [data] = [each for each in priced.steps if each.factor == ROWS]
    assert data.cost == pytest.approx(1601)
    assert priced.spend_on == BACKBONE


def test_a_gain_that_chance_may_have_made_is_worth_nothing() -> None:
    advised = [findings(outcomes(lambda cell: 0.5, 0.1, seed=seed)).advice for seed in range(40)]
    assert sum(each.spend_on is not None for each in advised) <= 5
    assert any("no gain is beyond chance" in each.reason for each in advised)


def test_a_larger_backbone_costs_more() -> None:
    found = outcomes(lambda cell: {"a": 0.9, "b": 0.5, "c": 0.4}[cell.backbone], 0.001)
    for each in found:
        object.__setattr__(each.trial, "flops", 500 if each.cell.backbone == "a" else 100)
    fitted = Attribution([each.cell for each in found], [each.score for each in found])
    best = advice(fitted, found, Prices(run=2.0)).steps[0]
    assert best.cost == pytest.approx(2 * 500 / (700 / 3))
    with pytest.raises(RecipeError, match="is no price"):
        Prices(run=0)


def test_findings_leave_out_what_failed_and_what_was_not_trained() -> None:
    found = outcomes(lambda cell: {"a": 0.9, "b": 0.5, "c": 0.4}[cell.backbone], 0.001)
    cell, failed = Cell("a", UNTRAINED, 0, 0), Trial({}, 0.0, 0, 0, 0, failed="diverged")
    base = Outcome(cell, Trial({"t": 0.2}, 0.2, 10, 0, 0), 1e-3)
    said = findings([base, *found, Outcome(Cell("c", "x", 100, 9), failed, 1e-3)])
    assert said.failed == 1
    assert said.backbones[0].baseline == 0.2
    assert said.trend["a"]["x"].keys() == set(AMOUNTS)
    assert said.share(SEED).share.value < 0.01
    assert said.to_dict()["backbones"][1]["baseline"] is None
