"""Cells of sequence networks: chance comes from the seed, no training changes nothing, budgets are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from featherweight.core.errors import RecipeError, TrainingError
from featherweight.core.run import Run
from featherweight.core.waves import waves
from featherweight.models.backbone import MIXERS
from featherweight.train.cells import UNTRAINED, Cell, Trial, first_and_last
from featherweight.train.head import Fitting
from featherweight.train.objectives.registry import usual_objectives
from featherweight.train.probe import Protocol, Question
from featherweight.train.sequence_cells import Design, SequenceCells, World, pretrain, suited

ASKED = waves(160, 1, 32)
WORLD = World(
    "waves", "digest", waves(64, 0, 32).values,
    {"frequency": Question(ASKED.labelled("frequency"),
                           {"training": range(60), "validation": range(60, 90), "test": range(90, 160)})},
)  # fmt: skip
SMALL = Design(width=16, parameters=1500)


def cells(**changes: object) -> SequenceCells:
    known = usual_objectives((), {}, 32, False)
    fitting = Fitting(4, 3e-3, 1e-3, 16)
    base = SequenceCells(WORLD, tuple(MIXERS), known, SMALL, fitting, Protocol())
    return replace(base, **changes)


def test_no_updates_change_nothing_bit_for_bit() -> None:
    domain = cells(fitting=Fitting(0, 3e-3, 1e-3, 16))
    network = domain.network("convolution", True, 5)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    task = domain.known["cpc"].task(network, torch.Generator().manual_seed(0))
    assert pretrain(task, WORLD.inputs, domain.fitting, Run()) == []
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())
    trained, made = (
        domain.train(Cell("convolution", each, rows, 5), 1e-3) for each, rows in (("cpc", 64), (UNTRAINED, 0))
    )
    assert trained.scores == made.scores
    assert (trained.steps, trained.flops, trained.loss) == (0, 0, None)


@pytest.mark.parametrize("objective", ["cpc", "jepa", "data2vec"])
def test_the_same_cell_twice_is_the_same(objective: str) -> None:
    domain = cells()
    one, other = (domain.train(Cell("state-space", objective, 32, 0), 3e-3) for _ in range(2))
    assert one == other
    third = domain.train(Cell("state-space", objective, 32, 1), 3e-3)
    assert third.loss != one.loss
    assert Trial.from_dict(one.to_dict()) == one


def test_a_larger_amount_of_data_holds_the_smaller() -> None:
    domain, run = cells(), Run(seed=2)
    few, many, tiny = (domain._rows(Cell("attention", "cpc", rows, 2), run) for rows in (16, 20, 3))
    assert torch.equal(many[:16], few)
    other = domain._rows(Cell("attention", "cpc", 16, 3), Run(seed=3))
    assert not torch.equal(other, few)
    assert torch.equal(tiny[:6], torch.cat([few[:3], few[:3]]))  # three rows make a batch of sixteen
    assert len(tiny) == 16


def test_a_budget_of_operations_is_kept() -> None:
    each = {name: cells().steps(name, "cpc")[1] for name in MIXERS}
    assert len(set(each.values())) == 3
    domain = cells(flops=5 * max(each.values()))
    for name, cost in each.items():
        steps, counted = domain.steps(name, "cpc")
        assert counted == cost
        assert steps * cost <= domain.flops < (steps + 1) * cost  # type: ignore[operator]
    with pytest.raises(RecipeError, match="are less than one update of attention with cpc; give at least"):
        cells(flops=10).steps("attention", "cpc")


def test_what_cannot_be_trained_is_refused_before_anything_is() -> None:
    cells().check()
    with pytest.raises(TrainingError, match="leaves nothing to predict"):
        cells(known=usual_objectives(["cpc"], {"cpc": {"offset": 99}}, 32, False)).check()
    with pytest.raises(RecipeError, match="allow more parameters"):
        cells(design=Design(width=64, parameters=100)).check()


def test_long_signals_are_shortened() -> None:
    long = replace(WORLD, inputs=torch.zeros(3, 1000, 2))
    assert suited(long).strides == (8, 1)
    assert long.positions(suited(long)) == 125
    assert suited(WORLD) == Design()
    assert replace(WORLD, inputs=torch.zeros(3, 1000, dtype=torch.int64), tokens=9).positions(suited(WORLD)) == 1000


def test_first_and_last_losses() -> None:
    assert first_and_last([]) is None
    assert first_and_last([3.0]) == (3.0, 3.0)
    assert first_and_last([9.0] + [0.0] * 18 + [2.0]) == (9.0, 1.0)
