"""Corevectors: W a + b = U S v, norms kept, outputs give the same vector back, convolutions are matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.measure.corevectors import kernel_matrix, random_basis, svd_basis

SIZES = st.integers(1, 12)


def linear(inputs: int, outputs: int, bias: bool = True, seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(inputs, outputs, bias, dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@given(SIZES, SIZES, st.booleans(), st.integers(0, 99))
def test_the_layer_is_its_decomposition(inputs: int, outputs: int, bias: bool, seed: int) -> None:
    layer, given_inputs = linear(inputs, outputs, bias, seed), torch.randn(7, inputs, dtype=torch.float64)
    basis = svd_basis(layer, 99)
    core = basis.of_inputs(layer, given_inputs)
    expected = layer(given_inputs).detach()
    assert torch.allclose((core * basis.singular) @ basis.left.T, expected, atol=1e-9)
    assert torch.allclose(basis.of_outputs(layer, expected), core, atol=1e-6)


@given(SIZES, st.integers(0, 99))
def test_all_directions_keep_the_norm(inputs: int, seed: int) -> None:
    layer = linear(inputs, inputs + 1, True, seed)  # [W | b] is square, so V has every direction of [a; 1]
    given_inputs = torch.randn(7, inputs, dtype=torch.float64)
    with_one = torch.cat([given_inputs, torch.ones(7, 1, dtype=torch.float64)], 1)
    core = svd_basis(layer, 99).of_inputs(layer, given_inputs)
    if core.shape[1] == inputs + 1:  # no direction is below what the decomposition can see
        assert torch.allclose(core.norm(dim=1), with_one.norm(dim=1), rtol=1e-5)


def test_float32_layers_are_their_decomposition_too() -> None:
    torch.manual_seed(0)
    layer, given_inputs = torch.nn.Linear(96, 64), torch.randn(50, 96)
    basis = svd_basis(layer, 64)
    assert torch.allclose(
        (basis.of_inputs(layer, given_inputs) * basis.singular) @ basis.left.T, layer(given_inputs), atol=1e-5
    )


def test_fewer_directions_are_the_first_ones() -> None:
    layer, given_inputs = linear(9, 7), torch.randn(5, 9, dtype=torch.float64)
    few, every = (svd_basis(layer, rank).of_inputs(layer, given_inputs) for rank in (3, 99))
    assert torch.allclose(few, every[:, :3], atol=1e-12)
    singular = svd_basis(layer, 99).singular
    assert torch.allclose(singular, torch.linalg.svdvals(kernel_matrix(layer)), atol=1e-9)
    assert torch.equal(singular, singular.sort(descending=True).values)


def test_the_output_of_a_changed_layer_shows_the_change() -> None:
    layer, changed = linear(9, 7), linear(9, 7)
    with torch.no_grad():
        changed.weight += 0.1
    basis, given_inputs = svd_basis(layer, 4), torch.randn(5, 9, dtype=torch.float64)
    assert torch.equal(basis.of_inputs(layer, given_inputs), basis.of_inputs(changed, given_inputs))
    shown = basis.of_outputs(changed, changed(given_inputs)) - basis.of_outputs(layer, layer(given_inputs))
    shown = shown.detach()
    assert float(shown.abs().max()) > 0.01


def test_directions_that_the_layer_ignores_are_left_out() -> None:
    layer = linear(8, 6, bias=False)
    with torch.no_grad():
        layer.weight[3:] = 0
    assert svd_basis(layer, 99).rank == 3
    with torch.no_grad():
        layer.weight.zero_()
    with pytest.raises(DataError, match="only zeros"):
        svd_basis(layer, 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_a_convolution_is_its_kernel_matrix_at_every_position(
    stride: int, padding: int, dilation: int, bias: bool
) -> None:
    torch.manual_seed(0)
    places = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = torch.nn.Conv2d(3, 5, (3, 2), bias=bias, dtype=torch.float64, **places)
    pictures = torch.randn(4, 3, 9, 8, dtype=torch.float64)
    basis, expected = svd_basis(layer, 99), layer(pictures).detach()
    core = basis.of_inputs(layer, pictures)
    assert core.shape == (4, basis.rank, *expected.shape[2:])
    assert torch.allclose(torch.einsum("rqhw,cq->rchw", core, basis.left * basis.singular), expected, atol=1e-9)
    assert torch.allclose(basis.of_outputs(layer, expected), core, atol=1e-6)
    patches = torch.nn.functional.unfold(pictures, (3, 2), **places)
    whole = torch.cat([patches, torch.ones_like(patches[:, :1])], 1) if bias else patches
    right = basis.right if basis.offset is None else torch.cat([basis.right, basis.offset[:, None]], 1)
    assert torch.allclose(core.flatten(2), right @ whole, atol=1e-9)


def test_what_is_no_matrix_is_refused() -> None:
    for layer in (torch.nn.LayerNorm(4), torch.nn.Conv2d(4, 4, 3, groups=2)):
        with pytest.raises(DataError):
            svd_basis(layer, 2)


def test_random_directions_are_orthonormal_and_their_own() -> None:
    layer = linear(9, 7)
    basis = random_basis(layer, 4, generator())
    assert basis.offset is not None
    whole = torch.cat([basis.right, basis.offset[:, None]], 1)
    assert torch.allclose(whole @ whole.T, torch.eye(4, dtype=torch.float64), atol=1e-12)
    assert torch.equal(basis.right, random_basis(layer, 4, generator()).right)
    assert not torch.allclose(basis.right, svd_basis(layer, 4).right, atol=0.1)
