"""Dimensions of clouds whose dimension is known."""

from __future__ import annotations

import pytest
import torch

from featherweight.measure.manifold import manifold, neighbour_ratios, participation_ratio, two_nn


def cloud(dimensions: int, points: int = 4000, width: int = 256) -> torch.Tensor:
    """tanh of a random map of a few dimensions."""
    generator = torch.Generator().manual_seed(dimensions)
    latent = torch.randn(points, dimensions, generator=generator)
    return torch.tanh(latent @ torch.randn(dimensions, width, generator=generator) / dimensions**0.5)


@pytest.mark.parametrize("dimensions", [2, 5, 10])
def test_both_find_a_known_dimension_within_a_tenth(dimensions: int) -> None:
    points = cloud(dimensions)
    assert two_nn(points) == pytest.approx(dimensions, rel=0.1)
    assert participation_ratio(points) == pytest.approx(dimensions, rel=0.1)


def test_two_nn_comes_out_low_from_ten_dimensions_up() -> None:
    assert 13 < two_nn(cloud(16)) < 16


def test_neighbours_against_all_distances() -> None:
    points = cloud(4, 300, 20) + 50  # far from the origin, where cancellation would show
    points[1] = points[0] + 1e-4
    every = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = every.sort().values
    torch.testing.assert_close(neighbour_ratios(points), nearest[:, 2] / nearest[:, 1])


def test_two_nn_follows_a_curve_that_linear_measures_do_not() -> None:
    angle = torch.rand(1500, generator=torch.Generator().manual_seed(0)) * 6.28
    curve = torch.stack([(k * angle).sin() for k in range(1, 7)] + [(k * angle).cos() for k in range(1, 7)], 1)
    assert two_nn(curve) == pytest.approx(1, rel=0.1)
    assert participation_ratio(curve) > 10


def test_equal_variances_count_fully() -> None:
    assert participation_ratio(torch.cat([torch.eye(7), -torch.eye(7)])) == pytest.approx(7)


def test_repetitions_are_left_out_and_few_points_say_nothing() -> None:
    points = cloud(3, 200)
    found, doubled = manifold(points), manifold(points.repeat(3, 1))
    assert found == doubled
    assert found is not None
    assert found.linear <= 256
    assert manifold(points[:31]) is None
    assert manifold(points[:1].repeat(100, 1)) is None


def test_linear_rank_of_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(300, 4, generator=generator) @ torch.randn(4, 50, generator=generator)
    found = manifold(flat)
    assert found is not None
    assert found.linear <= 4
