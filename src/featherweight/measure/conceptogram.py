"""Peepholes and conceptograms: for each layer, what it makes of a sample, as a distribution over labels.

The corevectors of calibration samples are clustered; E[g, c] is the share of cluster g's samples that bear label c, a
row of zeros where a cluster has none. The peephole of a sample is responsibilities x E, normalised; where all that
answers for a sample are clusters without samples, it is what is known of no sample in particular: the labels'
frequencies. The conceptogram of a sample stacks its peepholes, [layers, labels].

With E the identity a peephole is the responsibilities; with clusters that are the classes, it is the nearest-centroid
classifier of that layer.

Knows nothing of models: corevectors come in, distributions go out. All in float64; a peephole's row sums to 1.
Source: arXiv 2604.08424.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featherweight.core.lazy import torch
from featherweight.measure.clusters import Clusters, Kind, fit_clusters


@dataclass(frozen=True)
class Peephole:
    """What turns corevectors of one layer into distributions over labels.

    Attributes:
        clusters: of corevectors.
        scale: float64 [rank], what corevectors are multiplied by first: ones, or the singular values.
        posterior: E, float64 [clusters, labels].
        base: frequencies of the labels, float64 [labels].
    """

    clusters: Clusters
    scale: torch.Tensor
    posterior: torch.Tensor
    base: torch.Tensor

    def __call__(self, corevectors: torch.Tensor) -> torch.Tensor:
        """Distributions, float64 [samples, labels], of corevectors [samples, rank]."""
        return blended(self.clusters.responsibilities(corevectors.double() * self.scale), self.posterior, self.base)


def blended(responsibilities: torch.Tensor, posterior: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Responsibilities [samples, clusters] x E [clusters, labels], normalised, or the base where nothing is left."""
    mixed = responsibilities @ posterior
    total = mixed.sum(1, keepdim=True)
    return torch.where(total > 0, mixed / total.clamp(min=1e-300), base)


def frequencies(targets: torch.Tensor, labels: int) -> torch.Tensor:
    """Share of each label, float64 [labels], of targets int64 [samples]."""
    return torch.bincount(targets, minlength=labels).double() / len(targets)


def empirical_posterior(nearest: torch.Tensor, targets: torch.Tensor, clusters: int, labels: int) -> torch.Tensor:
    """E, float64 [clusters, labels].

    Args:
        nearest: the cluster of each sample, int64 [samples].
        targets: its label, int64 [samples].
        clusters: how many there are.
        labels: how many there are.
    """
    pairs = torch.bincount(nearest * labels + targets, minlength=clusters * labels).reshape(clusters, labels).double()
    sizes = pairs.sum(1, keepdim=True)
    return torch.where(sizes > 0, pairs / sizes.clamp(min=1), 0.0)


def fit_peephole(
    corevectors: torch.Tensor,
    targets: torch.Tensor,
    labels: int,
    clusters: int,
    kind: Kind,
    scale: torch.Tensor,
    generator: torch.Generator,
) -> Peephole:
    """The peephole of a layer.

    Args:
        corevectors: of calibration samples, [samples, rank].
        targets: label of each, int64 [samples].
        labels: how many labels there are.
        clusters: how many are wanted.
        kind: of clusters.
        scale: what corevectors are multiplied by, [rank].
        generator: draws the clusters' starts.
    """
    scale = scale.double().cpu()
    points = corevectors.double() * scale
    found = fit_clusters(points, clusters, kind, generator)
    nearest = found.responsibilities(points).argmax(1)
    posterior = empirical_posterior(nearest, targets, len(found), labels)
    return Peephole(found, scale, posterior, frequencies(targets, labels))


def conceptogram(peepholes: Mapping[str, Peephole], corevectors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Peepholes of all layers, float64 [samples, layers, labels], in the order of `peepholes`."""
    return torch.stack([peephole(corevectors[name]) for name, peephole in peepholes.items()], 1)


def total_variation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Half the sum of absolute differences of two distributions over the last axis: from 0, equal, to 1, apart."""
    return (one - other).abs().sum(-1) / 2
