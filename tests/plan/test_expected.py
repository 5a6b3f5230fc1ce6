"""Expected costs: at single choices the counts of real models, in between exact averages of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.architecture import supported
from featherweight.core.errors import SearchError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.ordering import importance_order
from featherweight.plan.cost import LatencyModel, stored_formats
from featherweight.plan.expected import ExpectedCost, Limits, require_feasible
from featherweight.plan.joint_recipe import recipe_of
from featherweight.testing.tiny import tiny_model, tiny_run
from featherweight.train.decisions import one_hot
from featherweight.train.space import Space, space_of

LATENCY = LatencyModel(1e-3, {"Q8_0": 2e-9, "int2-g32": 5e-9}, 0.0)


def opened(folder: Path, model_type: str = "llama", **changes: Any) -> tuple[Model, Run]:
    path = tiny_model(folder, model_type, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, **changes)
    return open_folder(path), tiny_run(path, rows=4)


def priced(model: Model, run: Run, space: Space, latency: LatencyModel | None = LATENCY) -> ExpectedCost:
    return ExpectedCost(model, space, importance_order(model, run), latency=latency)


def small(model: Model) -> Space:
    hidden = model.architecture.size("hidden")
    return space_of(
        model, blocks=[1, 2, 3], ffn=[64, 256], groups=[2, 4], hidden=[hidden // 2, hidden],
        formats=["int2-g32", "Q8_0"], precision="part",
    )  # fmt: skip


@pytest.mark.parametrize("model_type", supported())
def test_a_single_choice_costs_what_its_model_does(models_folder: Path, model_type: str) -> None:
    model, run = opened(models_folder, model_type)
    space = small(model)
    cost = priced(model, run, space)
    for choice in list(space.choices())[::5]:
        child = model
        for step in recipe_of(model, space, cost.order, choice):
            child = step.apply(child, run)
        draw = one_hot(space, choice)
        assert float(cost.parameters(draw)) == child.parameters
        assert cost.bytes_of(choice) == child.nbytes
        assert cost.seconds_of(choice) == pytest.approx(LATENCY.seconds(stored_formats(child)))


def test_narrower_heads_are_counted(models_folder: Path) -> None:
    model, run = opened(models_folder)
    space = space_of(model, head_dim=[8, 32], groups=[1, 4])
    cost = priced(model, run, space)
    for choice in space.choices():
        child = recipe_of(model, space, cost.order, choice).steps[0].apply(model, run)
        assert cost.bytes_of(choice) == child.nbytes


def test_the_expectation_is_the_average_over_all_choices(models_folder: Path) -> None:
    model, run = opened(models_folder)
    space = small(model)
    cost = priced(model, run, space)
    generator = torch.Generator().manual_seed(0)
    draw = {name: torch.rand(len(each), generator=generator).softmax(0) for name, each in space.options.items()}
    for expectation in (cost.parameters, cost.bytes, cost.seconds):
        average = 0.0
        for choice in space.choices():
            probability = 1.0
            for name, option in choice.items():
                probability *= float(draw[name][space.options[name].index(option)])
            average += probability * float(expectation(one_hot(space, choice)))
        assert float(expectation(draw)) == pytest.approx(average, rel=1e-5)


def test_bytes_by_unit_add_up(models_folder: Path) -> None:
    model, run = opened(models_folder)
    space = small(model)
    cost = priced(model, run, space)
    for choice in list(space.choices())[::7]:
        units, rest = cost.by_unit(choice)
        assert rest + sum(row[str(choice[unit])] for unit, row in units.items()) == cost.bytes_of(choice)


def test_the_smallest_choice_is_the_smallest(models_folder: Path) -> None:
    model, run = opened(models_folder)
    space = small(model)
    cost = priced(model, run, space)
    assert cost.bytes_of(cost.smallest()) == min(cost.bytes_of(choice) for choice in space.choices())


def test_a_space_without_a_feasible_point_is_refused(models_folder: Path) -> None:
    model, run = opened(models_folder)
    cost = priced(model, run, small(model))
    least = cost.bytes_of(cost.smallest())
    require_feasible(cost, Limits(least))
    with pytest.raises(
        SearchError, match=rf"holds none within {least - 1:,} bytes of tensors: its smallest takes {least:,}"
    ):
        require_feasible(cost, Limits(least - 1))
    with pytest.raises(SearchError, match=r"holds none expected to decode a token in 1\.0 ms"):
        require_feasible(cost, Limits(least, seconds=1e-3))
    with pytest.raises(SearchError, match="decode time: was not measured"):
        priced(model, run, small(model), latency=None).seconds_of(cost.smallest())


def test_the_penalty_is_zero_inside_the_limits_and_grows_outside(models_folder: Path) -> None:
    model, run = opened(models_folder)
    space = small(model)
    cost = priced(model, run, space)
    choice = cost.smallest()
    draw, size = one_hot(space, choice), cost.bytes_of(choice)
    assert float(Limits(size, least=size / 2).excess(cost, draw, 1.0, 0.1)) == 0
    assert float(Limits(size / 2).excess(cost, draw, 1.0, 0.1)) == pytest.approx(1.0)
    assert float(Limits(4 * size, least=2 * size).excess(cost, draw, 1.0, 0.1)) == pytest.approx(0.25)
    limit = cost.seconds_of(choice)
    assert float(Limits(size, seconds=limit).excess(cost, draw, 1.0, 0.1)) == pytest.approx(0.1)
