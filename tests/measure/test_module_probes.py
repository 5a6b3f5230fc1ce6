"""Layers of perceptrons and convolutional networks: equal modules differ by nothing, damage shows where it is."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.layer_models import LABELS, QUICK, convolutional, damaged_module, perceptron, samples

from featherweight.core.errors import DataError, RecipeError
from featherweight.core.run import Run
from featherweight.measure.layer_compare import LayerComparison, compare_modules
from featherweight.measure.layers import LayerSettings
from featherweight.measure.module_probes import Pool, layers_of, look_at, look_first_at
from featherweight.measure.noise import HALF_UNIT, shaken_module

MAKERS = {"perceptron": perceptron, "convolutional": convolutional}


def compared(
    parent: torch.nn.Module, child: torch.nn.Module, pool: Pool = "mean", settings: LayerSettings = QUICK
) -> LayerComparison:
    return compare_modules(parent, child, samples(300), samples(120, 1), LABELS, Run(), settings, pool, draws=1)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("pool", ["mean", "grid"])
def test_equal_modules_differ_by_nothing(kind: str, pool: Pool) -> None:
    module = MAKERS[kind]()
    found = compared(module, copy.deepcopy(module), pool)
    assert len(found.places) == 2 * 4 + 1  # four layers, both sides, and the prediction
    for place in found.places:
        assert float(place.variation.max()) == 0
        assert float((place.parent.sum(1) - 1).abs().max()) < 1e-12
    for state in found.child.states.values():
        assert state.relative is not None
        assert state.local is not None
        assert float(state.relative.max()) == float(state.local.max()) == 0


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("cluster", ["k-means", "mixture"])
def test_damage_shows_first_at_the_output_of_its_layer(kind: str, layer: int, cluster: str) -> None:
    """Inputs: exactly nothing up to the damaged layer and something at the next; outputs: something at it."""
    module = MAKERS[kind]()
    names = layers_of(module, samples(2)[0])
    settings = LayerSettings(rank=16, clusters=20, kind=cluster)  # type: ignore[arg-type]
    found = compared(module, damaged_module(module, names[layer]), settings=settings)
    drift = {(place.module, place.side): float(place.variation.max()) for place in found.places}
    for index, name in enumerate(names):
        assert (drift[name, "input"] > 0) == (index > layer)
        assert (drift[name, "output"] > 0) == (index >= layer)
    assert drift["prediction", "prediction"] > 0  # the last layer's damage is seen as well
    for index, name in enumerate(names):
        local = found.child.states[name].local
        assert local is not None
        assert (float(local.max()) > 0) == (index == layer)


def test_the_prediction_is_the_softmax() -> None:
    module, (inputs, _) = perceptron(), samples(9)
    bases, first = look_first_at(module, inputs, QUICK, Run())
    assert first.prediction is not None
    assert torch.allclose(first.prediction, module(inputs).detach().double().softmax(-1))
    assert list(bases) == ["1", "3", "5", "7"]


def test_positions_of_a_convolution_are_averaged_or_kept_in_quarters() -> None:
    module, (inputs, _) = convolutional(), samples(9)
    bases, mean = look_first_at(module, inputs, QUICK, Run(), "mean")
    grid = look_at(module, inputs, bases, "grid")
    assert mean.inputs["0"].shape == (9, 8)
    assert grid.inputs["0"].shape == (9, 32)
    assert torch.allclose(grid.inputs["0"].reshape(9, 8, 4).mean(2), mean.inputs["0"], atol=1e-5)


def test_a_module_is_left_as_it_was() -> None:
    module = perceptron().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    compared(module, module)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


def test_a_child_of_another_shape_is_compared_where_it_can_be() -> None:
    module, other = perceptron(), perceptron()
    other[3], other[5] = torch.nn.Linear(24, 10), torch.nn.Linear(10, 16)
    found = compared(module, other)
    assert set(found.child.missing) == {"3", "5"}
    assert {place.module for place in found.places} == {"1", "7", "prediction"}
    assert found.child.states["3"].relative is None
    assert 0 < found.child.states["3"].cka < 1
    assert found.child.states["5"].relative is not None
    assert found.child.states["5"].local is None  # it cannot read what the parent's layer read


def test_noise_is_half_a_unit_of_bf16() -> None:
    module = perceptron()
    for (name, one), two in zip(module.named_parameters(), shaken_module(module, 0).parameters(), strict=True):
        change = float(((two - one) / one).detach().abs().max())
        assert change <= 1.01 * HALF_UNIT if one.dim() > 1 else torch.equal(one, two), name


def test_what_cannot_be_looked_at_is_refused() -> None:
    module, (inputs, _) = perceptron(), samples(4)
    assert layers_of(module, inputs, ("[13]",)) == ["1", "3"]
    with pytest.raises(RecipeError, match="'fc9'"):
        layers_of(module, inputs, ("fc9",))
    with pytest.raises(DataError, match="calls no linear"):
        layers_of(torch.nn.Sequential(torch.nn.ReLU()), inputs)
