"""The grid: every cell once, kept when it is finished, tuned alike, the same in several processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.errors import RecipeError, TrainingError
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.core.waves import waves
from featherweight.plan.grid import Grid, run_grid
from featherweight.train.cells import UNTRAINED, Cell, Trial
from featherweight.train.head import Fitting
from featherweight.train.objectives.registry import usual_objectives
from featherweight.train.probe import Protocol, Question
from featherweight.train.sequence_cells import Design, SequenceCells, World

GRID = Grid(("state-space", "convolution"), ("cpc",), (16, 32), 2, (1e-3,))


def domain() -> SequenceCells:
    asked = waves(90, 1, 32)
    parts = {"training": range(40), "validation": range(40, 60), "test": range(60, 90)}
    world = World(
        "waves", "digest", waves(32, 0, 32).values, {"frequency": Question(asked.labelled("frequency"), parts)}
    )
    known = usual_objectives(["cpc"], {}, 32, False)
    protocol = Protocol()
    return SequenceCells(world, GRID.backbones, known, Design(16, 1, 900), Fitting(2, 3e-3, 0.0, 8), protocol)


@dataclass(frozen=True)
class Planned:
    """A domain whose scores are written down: what is best at which rate, and what fails."""

    scores: dict[float, float]
    fails: tuple[str, ...] = ()
    backbones: tuple[str, ...] = GRID.backbones
    tasks: tuple[str, ...] = ("t",)
    threads: int | None = None

    def facts(self) -> dict[str, Any]:
        return {"scores": {str(rate): score for rate, score in self.scores.items()}}

    def train(self, cell: Cell, rate: float) -> Trial:
        if cell.backbone in self.fails and cell.objective != UNTRAINED:
            raise TrainingError(cell.backbone, "the loss is nan", "lower the rate")
        validation = self.scores[rate]
        return Trial({"t": 1 - validation}, validation, 10, 100, 2)


def test_cells_are_crossed_and_baselines_come_first() -> None:
    outcomes = run_grid(GRID, domain(), Run())
    assert [each.cell for each in outcomes] == [*GRID.baselines, *GRID.cells]
    assert len(GRID.cells) == 2 * 1 * 2 * 2
    assert all(0 <= each.score <= 1 for each in outcomes)
    assert all(each.trial.steps == (0 if each.cell.objective == UNTRAINED else 2) for each in outcomes)


def test_finished_cells_are_not_trained_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run_grid(GRID, domain(), Run(store=store))
    assert store.made == len(GRID.cells) + len(GRID.baselines)
    some = sorted(tmp_path.glob("cell-*.json"))
    for path in some[:3]:
        path.unlink()  # as if the run had been killed before
    again = Store(tmp_path)
    assert run_grid(GRID, domain(), Run(store=again)) == first
    assert again.made == 3
    other = Store(tmp_path)
    run_grid(GRID, replace(domain(), fitting=Fitting(1, 3e-3, 0.0, 8)), Run(store=other))
    assert other.made == len(some)  # another training is another cell


@pytest.mark.slow
def test_several_processes_give_the_same() -> None:
    assert run_grid(GRID, domain(), Run(), jobs=2) == run_grid(GRID, domain(), Run())


def test_the_rate_is_chosen_on_validation_rows_and_an_edge_is_told() -> None:
    tuned = replace(GRID, rates=(1e-3, 3e-3, 1e-2))
    inside = run_grid(tuned, Planned({1e-3: 0.2, 3e-3: 0.9, 1e-2: 0.5}), Run())
    assert {each.rate for each in inside if each.cell.rows} == {3e-3}
    assert all(each.score == pytest.approx(0.1) for each in inside if each.cell.rows)  # and not the best on test
    assert not any(each.edge for each in inside)
    assert all(
        each.edge for each in run_grid(tuned, Planned({1e-3: 0.2, 3e-3: 0.5, 1e-2: 0.9}), Run()) if each.cell.rows
    )


def test_a_cell_that_diverges_is_told_and_the_others_stay() -> None:
    outcomes = run_grid(GRID, Planned({1e-3: 0.5}, ("convolution",)), Run())
    failed = [each for each in outcomes if each.trial.failed]
    assert {each.cell.backbone for each in failed} == {"convolution"}
    assert failed[0].to_dict()["score"] is None
    assert "the loss is nan" in failed[0].trial.failed
    with pytest.raises(TrainingError, match="has no cell with a score"):
        run_grid(GRID, Planned({1e-3: 0.5}, GRID.backbones), Run())


def test_a_rate_at_which_a_seed_fails_is_not_chosen() -> None:
    @dataclass(frozen=True)
    class Steep(Planned):
        def train(self, cell: Cell, rate: float) -> Trial:
            if rate > 2e-3 and cell.seed == 1:
                raise TrainingError("loss", "is nan", "lower the rate")
            return super().train(cell, rate)

    outcomes = run_grid(replace(GRID, rates=(1e-3, 3e-3)), Steep({1e-3: 0.2, 3e-3: 0.9}), Run())
    assert {each.rate for each in outcomes} == {1e-3}
    assert not any(math.isnan(each.score) for each in outcomes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbones": ()}, "backbones"),
        ({"objectives": ("cpc", "cpc")}, "name one twice"),
        ({"rows": (0, 3)}, "number too low"),
        ({"seeds": 0}, "at least one seed"),
        ({"rates": (0.0,)}, "rates above zero"),
    ],
)
def test_grids_that_are_none(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        replace(GRID, **changes)
