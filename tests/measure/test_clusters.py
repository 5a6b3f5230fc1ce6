"""Clusters: rows sum to 1, nothing is NaN, as good as scikit-learn's, the same whatever else is asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.measure.clusters import Kind, fit_clusters, spread

KINDS = st.sampled_from(["k-means", "mixture"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def islands(count: int = 600, seed: int = 0, away: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around six corners of a space of five dimensions, and which corner each is of."""
    source = generator(seed)
    corners = away * torch.randn(6, 5, generator=source, dtype=torch.float64)
    own = torch.arange(count) % 6
    return corners[own] + torch.randn(count, 5, generator=source, dtype=torch.float64), own


@given(KINDS, st.integers(1, 40), st.integers(1, 8), st.integers(1, 12), st.integers(0, 99), st.floats(-8, 8))
def test_rows_are_distributions_whatever_the_points(
    kind: Kind, count: int, dimensions: int, clusters: int, seed: int, magnitude: float
) -> None:
    points = 10**magnitude * torch.randn(count, dimensions, generator=generator(seed))
    points[count // 2 :] = points[0].clone()  # half of them are one and the same point
    found = fit_clusters(points, clusters, kind, generator(seed))
    shares = found.responsibilities(points)
    assert len(found) <= clusters
    assert bool(torch.isfinite(shares).all())
    assert bool((shares >= 0).all())
    assert float((shares.sum(1) - 1).abs().max()) < 1e-12


@pytest.mark.parametrize("kind", ["k-means", "mixture"])
def test_what_lies_apart_is_found(kind: Kind) -> None:
    points, own = islands()
    nearest = fit_clusters(points, 6, kind, generator()).responsibilities(points).argmax(1)
    for corner in range(6):
        assert len(nearest[own == corner].unique()) == 1
    assert len(nearest.unique()) == 6


@pytest.mark.parametrize("kind", ["k-means", "mixture"])
def test_a_point_stands_for_itself(kind: Kind) -> None:
    points, _ = islands()
    found = fit_clusters(points, 9, kind, generator())
    order = torch.randperm(len(points), generator=generator())
    assert torch.equal(found.responsibilities(points)[order], found.responsibilities(points[order]))
    assert torch.equal(found.responsibilities(points)[17:18], found.responsibilities(points[17:18]))


def test_one_seed_gives_one_result() -> None:
    points, _ = islands()
    one, other = (fit_clusters(points, 9, "mixture", generator()) for _ in range(2))
    assert torch.equal(one.centres, other.centres)


def test_as_close_as_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    points, _ = islands(900, away=1.5)
    ours = spread(points, fit_clusters(points, 12, "k-means", generator()))
    theirs = cluster.KMeans(12, n_init=3, random_state=0).fit(points.numpy()).inertia_ / len(points)
    assert ours < 1.03 * theirs


def test_as_likely_as_scikit_learn() -> None:
    mixture = pytest.importorskip("sklearn.mixture")
    points, _ = islands(900, away=1.5)
    found = fit_clusters(points, 6, "mixture", generator())
    assert found.variances is not None
    assert found.weights is not None
    theirs = mixture.GaussianMixture(6, covariance_type="diag", random_state=0, n_init=3).fit(points.numpy())
    parts = torch.distributions.Independent(torch.distributions.Normal(found.centres, found.variances.sqrt()), 1)
    whole = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(found.weights), parts)
    assert float(whole.log_prob(points).mean()) > theirs.score(points.numpy()) - 0.05
    assert torch.allclose(
        found.responsibilities(points), (whole.mixture_distribution.logits + parts.log_prob(points[:, None])).softmax(1)
    )


def test_no_more_clusters_than_points() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(9, 1)
    assert len(fit_clusters(points, 20, "k-means", generator())) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    points, _ = islands(30)
    points[3, 2] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        fit_clusters(points, 4, "k-means", generator())
    with pytest.raises(DataError, match="are none"):
        fit_clusters(points[:0], 4, "k-means", generator())
