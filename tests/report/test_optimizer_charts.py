"""The pictures of a comparison: every trial is a point, a diverged one a cross above, and states are at their bytes."""

from __future__ import annotations

from typing import Any

import pytest

from featherweight.report.optimizer_charts import figures, loss_by_rate, loss_by_state

LOSSES = {"adamw": {1e-4: (3.0, 3.2), 1e-3: (2.0, 2.1), 1e-2: (2.5, None)}, "sgd": {1e-2: (2.9, 3.1), 1e-1: (2.8, 2.7)}}
TRIALS = [
    {"optimizer": name, "learning_rate": rate, "seed": seed, "loss": loss}
    for name, rates in LOSSES.items()
    for rate, losses in rates.items()
    for seed, loss in enumerate(losses)
]
SCORES = [
    {"optimizer": "adamw", "losses": [2.0, 2.1], "state": 8_000_000},
    {"optimizer": "sgd", "losses": [2.8, 2.7], "state": 0},
]


def drawn(figure: Any, mode: str) -> list[Any]:
    return [each for each in figure.data if each.mode == mode]


def test_every_seed_is_a_point_on_a_logarithmic_axis() -> None:
    figure = loss_by_rate(TRIALS, ["adamw", "sgd"])
    assert figure.layout.xaxis.type == "log"
    adamw, sgd = drawn(figure, "markers")
    assert list(adamw.x) == [1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2]
    assert list(sgd.y) == [2.9, 3.1, 2.8, 2.7]
    assert adamw.marker.color != sgd.marker.color
    assert adamw.text[2] == "adamw, rate 0.001, seed 0: 2.0000"


def test_a_diverged_trial_is_a_cross_above_all_others_and_breaks_the_line() -> None:
    figure = loss_by_rate(TRIALS, ["adamw", "sgd"])
    adamw = drawn(figure, "markers")[0]
    assert [symbol for symbol in adamw.marker.symbol if symbol != "circle"] == ["x-thin-open"]
    assert adamw.y[-1] > 3.2
    assert adamw.text[-1] == "adamw, rate 0.01, seed 1: diverged"
    assert list(drawn(figure, "lines")[0].y) == [pytest.approx(3.1), pytest.approx(2.05), None]


def test_state_is_in_bytes_and_named() -> None:
    figure = loss_by_state(SCORES, ["adamw", "sgd"])
    named = drawn(figure, "markers+text")
    assert [(each.text[0], each.x[0], each.y[0]) for each in named] == [
        ("adamw", 8.0, pytest.approx(2.05)), ("sgd", 0.0, pytest.approx(2.75)),
    ]  # fmt: skip
    assert [list(each.y) for each in drawn(figure, "lines+markers")] == [[2.0, 2.1], [2.8, 2.7]]
    low, high = figure.layout.xaxis.range
    assert low < 0 < 8 < high


def test_nothing_but_divergence_can_be_drawn() -> None:
    trials = [{**each, "loss": None} for each in TRIALS]
    dead = [{**each, "losses": [None, None]} for each in SCORES]
    assert len(figures({"trials": trials, "scores": dead})) == 2


def test_more_optimizers_than_colours_differ_by_symbol() -> None:
    names = [f"optimizer {number}" for number in range(10)]
    trials = [{"optimizer": name, "learning_rate": 1e-3, "seed": 0, "loss": 1.0} for name in names]
    points = drawn(loss_by_rate(trials, names), "markers")
    assert len({(each.marker.color, each.marker.symbol[0]) for each in points}) == 10
