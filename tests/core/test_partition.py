"""The partition's map: isometry, adjoint, empty groups, and what it must not depend on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core import partition as module
from featherweight.core.errors import AdapterError
from featherweight.core.fastfood import Fastfood, hadamard
from featherweight.core.partition import VERSIONS, LinearMap, Partition, partition, require_version

GROUPED = [name for name in VERSIONS if name != "fastfood"]
SIZES = [300, 200, 524]


def made(backend: str, groups: int = 100, seed: int = 0, isometric: bool = True) -> Partition:
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(size, generator=generator) for size in SIZES]
    return partition(backend, SIZES, groups, seed, weights, isometric)


def dense(linear_map: LinearMap) -> torch.Tensor:
    """P, [N, d], in float64."""
    columns = torch.eye(linear_map.groups, dtype=torch.float64)
    return torch.stack([linear_map.expand(column, 0, linear_map.total) for column in columns], dim=1)


@pytest.mark.parametrize("backend", GROUPED)
@pytest.mark.parametrize("groups", [1, 7, 100])
def test_columns_are_orthonormal(backend: str, groups: int) -> None:
    p = dense(made(backend, groups))
    assert (p.T @ p - torch.eye(groups)).abs().max() < 1e-6


@pytest.mark.parametrize("backend", GROUPED)
def test_distances_stay(backend: str) -> None:
    linear_map = partition(backend, [46080], 652, 3, [torch.randn(46080)])
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        u, v = (torch.randn(652, generator=generator) * 10 for _ in range(2))
        difference = linear_map.expand(u, 0, 46080) - linear_map.expand(v, 0, 46080)
        assert abs(float(difference.norm() / (u - v).norm()) - 1) < 1e-5


def test_loras_map_keeps_no_distance() -> None:
    """The control of the test above: the same two steps, at three scales."""
    generator = torch.Generator().manual_seed(0)
    ratios = []
    for scale in (0.1, 1.0, 10.0):
        (a, b), (c, d) = (
            (torch.randn(4, 48, generator=generator) * scale, torch.randn(48, 4, generator=generator) * scale)
            for _ in range(2)
        )
        moved = torch.cat([(a - c).flatten(), (b - d).flatten()]).norm()
        ratios.append(float((b @ a - d @ c).norm() / moved))
    assert max(ratios) / min(ratios) > 10


def test_empty_groups_are_dead_and_counted() -> None:
    linear_map = partition("stateless", [46080], 6528, 42)
    dead = linear_map.counts == 0
    assert linear_map.empty == int(dead.sum()) > 0
    assert linear_map.empty < 6 * 6528 * math.exp(-46080 / 6528)
    alone = torch.zeros(6528).masked_fill(dead, 1.0)
    assert not linear_map.expand(alone, 0, 46080).any()
    assert not linear_map.reduce(torch.ones(46080), 0)[dead].any()
    theta = torch.randn(6528, generator=torch.Generator().manual_seed(0))
    ratio = float(linear_map.expand(theta, 0, 46080).norm() / theta.norm())
    assert 0.998 < ratio < 1
    live = theta.masked_fill(dead, 0.0)
    assert abs(float(linear_map.expand(live, 0, 46080).norm() / live.norm()) - 1) < 1e-5


@pytest.mark.parametrize("backend", ["permutation", "signed_magnitude"])
def test_no_group_is_empty_where_none_need_be(backend: str) -> None:
    assert made(backend, 1000).empty == 0
    assert made(backend, sum(SIZES)).counts.tolist() == [1] * sum(SIZES)


def test_permuted_groups_differ_by_one_at_most() -> None:
    counts = made("permutation", 100).counts
    assert counts.max() - counts.min() <= 1


def test_signed_magnitude_parts_signs_and_orders_magnitudes() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)) - 0.5
    linear_map = partition("signed_magnitude", [600, 400], 20, 0, [weights[:600], weights[600:]])
    groups, share = linear_map.of(0, 1000), round(20 * float((weights < 0).double().mean()))
    assert set(groups[weights < 0].tolist()) == set(range(share))
    assert set(groups[weights >= 0].tolist()) == set(range(share, 20))
    for group in range(19):
        if group != share - 1:
            members, following = (weights[groups == each].abs() for each in (group, group + 1))
            assert members.max() <= following.min()
    assert torch.equal(linear_map.of(0, 1000), partition("signed_magnitude", [1000], 20, 9, [weights]).of(0, 1000))


@pytest.mark.parametrize(
    "weights", [torch.ones(10), -torch.ones(10), torch.zeros(10), torch.tensor([-1.0] + [1.0] * 9)]
)
@pytest.mark.parametrize("groups", [1, 2, 9, 10])
def test_signed_magnitude_of_one_sign(weights: torch.Tensor, groups: int) -> None:
    linear_map = partition("signed_magnitude", [10], groups, 0, [weights])
    assert linear_map.empty == 0
    assert linear_map.counts.sum() == 10


def test_materialized_draws_module_by_module() -> None:
    generator = torch.Generator().manual_seed(3)
    expected = torch.cat([torch.randint(0, 100, (size,), generator=generator) for size in SIZES])
    assert torch.equal(made("materialized", seed=3).of(0, sum(SIZES)), expected)


def test_back_ends_differ_for_one_seed() -> None:
    digests = {made(backend, seed=1).digest for backend in GROUPED}
    assert len(digests) == len(GROUPED)
    assert made("stateless", seed=1).digest != made("stateless", seed=2).digest
    assert made("stateless", 100).digest != made("stateless", 101).digest


@pytest.mark.parametrize("backend", VERSIONS)
def test_transposed_map_is_the_adjoint(backend: str) -> None:
    linear_map: LinearMap = Fastfood(1024, 100, 4) if backend == "fastfood" else made(backend)
    p, generator = dense(linear_map), torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator, dtype=torch.float64)
    assert torch.allclose(linear_map.reduce(values, 250), p[250:650].T @ values, atol=1e-10)


@pytest.mark.parametrize("backend", GROUPED)
def test_without_isometry_every_entry_is_one(backend: str) -> None:
    p = dense(made(backend, isometric=False))
    assert set(p.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(p.sum(1), torch.ones(sum(SIZES), dtype=torch.float64))


@settings(max_examples=40)
@given(
    backend=st.sampled_from(sorted(VERSIONS)),
    chunk=st.integers(1, 2000),
    cuts=st.lists(st.integers(0, 1024), max_size=4),
    seed=st.integers(0, 2**63 - 1),
    noise=st.integers(0, 1000),
)
def test_no_chunk_stretch_or_global_generator_matters(
    backend: str, chunk: int, cuts: list[int], seed: int, noise: int
) -> None:
    def build() -> LinearMap:
        return Fastfood(1024, 100, seed % 2**40) if backend == "fastfood" else made(backend, seed=seed)

    theta = torch.randn(100, generator=torch.Generator().manual_seed(0))
    values = torch.randn(1024, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, sums, digest = build().expand(theta, 0, 1024), build().reduce(values, 0), build().digest
    before, module.CHUNK = module.CHUNK, chunk
    try:
        torch.manual_seed(noise)
        again, edges = build(), [0, *sorted(cuts), 1024]
        stretches = [(first, last) for first, last in itertools.pairwise(edges) if first < last]
        parts = torch.cat([again.expand(theta, first, last) for first, last in stretches])
        assert torch.equal(parts, whole)
        added = torch.stack([again.reduce(values[first:last], first) for first, last in stretches]).sum(0)
        assert torch.allclose(added, sums, atol=1e-10)
        assert again.digest == digest
    finally:
        module.CHUNK = before


def test_fastfood_keeps_lengths_in_the_mean_only() -> None:
    theta = torch.randn(100, generator=torch.Generator().manual_seed(0))
    ratios = torch.tensor([float(Fastfood(1024, 100, seed).expand(theta, 0, 1024).norm()) for seed in range(60)])
    ratios /= theta.norm()
    assert abs(float(ratios.square().mean()) - 1) < 0.03
    assert float((ratios - 1).abs().max()) > 1e-3


def test_hadamard_twice_is_a_multiple_of_the_identity() -> None:
    values = torch.arange(8, dtype=torch.float64)
    assert torch.equal(hadamard(hadamard(values)), 8 * values)


@pytest.mark.parametrize("groups", [0, 1025])
def test_refuses_more_numbers_than_weights(groups: int) -> None:
    for build in (lambda: made("stateless", groups), lambda: Fastfood(1024, groups)):
        with pytest.raises(AdapterError, match=r"is not from 1 to 1024.*use at most 1024"):
            build()


@pytest.mark.parametrize(("backend", "version"), [("stateless", 2), ("hash", 1)])
def test_refuses_versions_that_it_does_not_know(backend: str, version: int) -> None:
    with pytest.raises(AdapterError, match="is unknown here"):
        require_version(backend, version)
