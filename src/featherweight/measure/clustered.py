"""Means of samples that come in clusters: positions of one document vary together, so documents are the unit.

The standard error adds up residuals by cluster (Liang and Zeger) with the small-sample factor n / (n - 1); intervals
are of Student's t with n - 1 degrees of freedom, n the number of clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from featherweight.core.lazy import scipy, torch


@dataclass(frozen=True)
class ClusteredMean:
    """A mean and how surely it is known.

    Attributes:
        mean: over all samples.
        error: its standard error; infinite with fewer than two clusters.
        clusters: how many there are.
    """

    mean: float
    error: float
    clusters: int

    def reach(self, chance: float) -> float:
        """How far above the true mean such a mean lies with at most this probability."""
        if self.error == 0:
            return 0.0
        if not math.isfinite(self.error):
            return math.inf
        return float(scipy.stats.t.isf(chance, self.clusters - 1)) * self.error

    def above(self, chance: float) -> float:
        """A bound that the true mean is below with at most this probability: the end of a one-sided interval."""
        return self.mean - self.reach(chance)

    def interval(self, chance: float = 0.05) -> tuple[float, float]:
        """Where the true mean lies but for this probability."""
        reach = self.reach(chance / 2)
        return self.mean - reach, self.mean + reach


def clustered_mean(values: torch.Tensor, units: torch.Tensor) -> ClusteredMean:
    """The mean of values float64 [samples] whose clusters are `units`, int64 [samples]."""
    mean = values.double().mean()
    _, places = torch.unique(units, return_inverse=True)
    clusters = int(places.max()) + 1
    residuals = torch.zeros(clusters, dtype=torch.float64).index_add_(0, places, values.double() - mean)
    if clusters < 2:
        return ClusteredMean(float(mean), math.inf if bool((values != 0).any()) else 0.0, clusters)
    error = math.sqrt(float(residuals.square().sum()) * clusters / (clusters - 1)) / len(values)
    return ClusteredMean(float(mean), error, clusters)
