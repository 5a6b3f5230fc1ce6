"""Peepholes and conformity: distributions over labels, the special cases of the method, order that changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.measure.clusters import Clusters, Kind
from featherweight.measure.conceptogram import (
    Peephole,
    blended,
    conceptogram,
    empirical_posterior,
    fit_peephole,
    frequencies,
    total_variation,
)
from featherweight.measure.conformity import Prediction, conformity, conformity_by_layer, predicted, proto_classes

COUNT, LABELS = 60, 4
KINDS = st.sampled_from(["k-means", "mixture"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corevectors(seed: int, count: int = COUNT) -> tuple[torch.Tensor, torch.Tensor]:
    source = generator(seed)
    return torch.randn(count, 5, generator=source), torch.randint(LABELS, (count,), generator=source)


def fitted(seed: int, kind: Kind, clusters: int = 9) -> Peephole:
    points, targets = corevectors(seed)
    return fit_peephole(points, targets, LABELS, clusters, kind, torch.ones(5), generator(seed))


@given(st.integers(0, 99), KINDS, st.integers(1, 70))
def test_rows_sum_to_one(seed: int, kind: Kind, clusters: int) -> None:
    found = fitted(seed, kind, clusters)(corevectors(seed + 1)[0])
    assert bool((found >= 0).all())
    assert float((found.sum(1) - 1).abs().max()) < 1e-12


@given(st.integers(0, 99), KINDS)
def test_samples_in_another_order_are_conceptograms_in_that_order(seed: int, kind: Kind) -> None:
    holes = {name: fitted(seed + index, kind) for index, name in enumerate("abc")}
    cores = {name: corevectors(seed + 5 + index)[0] for index, name in enumerate("abc")}
    order = torch.randperm(COUNT, generator=generator(seed))
    there = conceptogram(holes, {name: each[order] for name, each in cores.items()})
    assert torch.allclose(conceptogram(holes, cores)[order], there, atol=1e-15)


@given(st.integers(0, 99), KINDS)
def test_equal_corevectors_differ_by_nothing(seed: int, kind: Kind) -> None:
    hole, (points, _) = fitted(seed, kind), corevectors(seed)
    assert float(total_variation(hole(points), hole(points.clone())).max()) == 0


@given(st.integers(0, 99))
def test_the_posterior_counts(seed: int) -> None:
    _, targets = corevectors(seed)
    nearest = torch.randint(7, (COUNT,), generator=generator(seed))
    found = empirical_posterior(nearest, targets, 8, LABELS)
    for cluster in range(8):
        own = targets[nearest == cluster]
        for label in range(LABELS):
            share = float((own == label).double().mean()) if len(own) else 0.0
            assert float(found[cluster, label]) == pytest.approx(share)
    assert float(found[7].sum()) == 0  # nothing is in the last cluster: zeros and no NaN


def test_where_no_cluster_knows_anything_the_frequencies_stand() -> None:
    base = torch.tensor([0.7, 0.3], dtype=torch.float64)
    posterior = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    shares = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    assert blended(shares, posterior, base).tolist() == [[0.7, 0.3], [0.0, 1.0]]


def test_with_the_identity_a_peephole_is_the_responsibilities() -> None:
    centres = torch.randn(LABELS, 5, generator=generator(), dtype=torch.float64)
    clusters = Clusters(centres, torch.ones_like(centres), torch.full((LABELS,), 0.25, dtype=torch.float64))
    hole = Peephole(clusters, torch.ones(5), torch.eye(LABELS, dtype=torch.float64), torch.ones(LABELS) / LABELS)
    points, _ = corevectors(0)
    assert torch.allclose(hole(points), clusters.responsibilities(points), atol=1e-15)


def test_with_the_classes_for_clusters_it_is_the_nearest_centroid() -> None:
    """One label a cluster: each sample is given the label whose mean is nearest, with certainty."""
    source = generator()
    targets = torch.arange(200) % LABELS
    points = 9 * torch.randn(LABELS, 5, generator=source)[targets] + 0.3 * torch.randn(200, 5, generator=source)
    hole = fit_peephole(points, targets, LABELS, LABELS, "k-means", torch.ones(5), source)
    centroids = torch.stack([points[targets == label].mean(0) for label in range(LABELS)])
    new = points + 0.3 * torch.randn(200, 5, generator=source)
    assert torch.equal(hole(new).argmax(1), torch.cdist(new, centroids).argmin(1))
    assert float(hole(new).max(1).values.min()) == 1


def test_the_scale_makes_directions_count() -> None:
    """With the noise direction scaled away, only the direction that tells the labels apart is left."""
    source = generator()
    targets = torch.arange(300) % 2
    points = torch.stack([targets * 1.0, 50 * torch.randn(300, generator=source)], 1)
    plain, scaled = (
        fit_peephole(points, targets, 2, 2, "k-means", scale, generator())(points).argmax(1)
        for scale in (torch.ones(2), torch.tensor([1.0, 1e-3]))
    )
    assert float((scaled == targets).double().mean()) == 1
    assert float((plain == targets).double().mean()) < 0.8


def test_frequencies() -> None:
    assert frequencies(torch.tensor([0, 0, 2]), 4).tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])


def test_total_variation_is_between_equal_and_apart() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert float(total_variation(one, one)) == 0
    assert float(total_variation(one, other)) == 1


def story(label: int, layers: int = 3) -> torch.Tensor:
    rows = torch.full((layers, LABELS), 0.1, dtype=torch.float64)
    rows[:, label] = 0.7
    return rows


def test_proto_classes_are_made_of_the_confident_and_right() -> None:
    grams = torch.stack([story(0), story(1), story(2), story(0)])
    targets = torch.tensor([0, 0, 2, 0])
    says = Prediction(torch.tensor([0, 0, 1, 0]), torch.tensor([0.95, 0.8, 0.99, 0.92], dtype=torch.float64))
    protos = proto_classes(grams, targets, says)
    assert protos.confident == (2, 0, 0, 0)
    assert protos.samples == (2, 0, 1, 0)  # label 2 was never right, so all of its samples stand in
    assert torch.allclose(protos.rows[0], story(0))
    assert float(protos.rows.sum(-1)[0].sub(1).abs().max()) < 1e-12
    assert float(protos.rows[1].sum()) == 0  # no sample, no story
    scores = conformity(grams, torch.tensor([0, 0, 1, 1]), protos)
    assert float(scores[0]) == pytest.approx(1)
    assert float(scores[1]) < 0.5
    assert scores[2:].tolist() == [0, 0]


@given(st.integers(0, 99))
def test_scores_lie_between_nothing_and_the_usual(seed: int) -> None:
    grams = torch.rand(COUNT, 3, LABELS, generator=generator(seed), dtype=torch.float64)
    grams /= grams.sum(-1, keepdim=True)
    targets = torch.randint(LABELS, (COUNT,), generator=generator(seed))
    protos = proto_classes(grams, targets, predicted(grams[:, -1]))
    scores, rows = conformity(grams, targets, protos), conformity_by_layer(grams, targets, protos)
    assert rows.shape == (COUNT, 3)
    for each in (scores, rows):
        assert bool((each >= 0).all())
        assert bool((each <= 1 + 1e-12).all())
