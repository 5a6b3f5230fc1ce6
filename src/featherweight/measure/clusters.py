"""Clusters of corevectors: k-means, or a mixture of normal distributions with diagonal covariances.

Both are fitted in float64 from k-means++ starts, the best of a few. What makes a mixture of many dimensions fail
elsewhere cannot happen: a variance never falls below a share of the data's, a cluster that loses all its points is put
onto the point that is farthest from every centre, and responsibilities are formed from logarithms. Responsibilities of
a point depend on that point alone, bit for bit; fitting takes matrix products, which round a little differently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from featherweight.core.errors import DataError
from featherweight.core.lazy import torch

Kind = Literal["k-means", "mixture"]
_STARTS, _ROUNDS = 3, 100
_TOLERANCE = 1e-4  # a round of k-means that gains less than this share of the loss is the last one
_ENOUGH = 1e-3  # nats a point: a round of the mixture that gains less is the last one
_LEAST_VARIANCE = 1e-4  # of the mean variance of the data
_BLOCK = 4096  # points whose distances are in memory together


@dataclass(frozen=True)
class Clusters:
    """Fitted clusters.

    Attributes:
        centres: float64 [clusters, dimensions].
        variances: of a mixture, float64 [clusters, dimensions]; None = k-means.
        weights: of a mixture, float64 [clusters]; None = k-means.
    """

    centres: torch.Tensor
    variances: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.centres)

    def responsibilities(self, points: torch.Tensor) -> torch.Tensor:
        """How much each cluster answers for each point: float64 [points, clusters], rows sum to 1.

        Of k-means 1 for the nearest centre, the first of equals. `points` are [points, dimensions].
        """
        if self.variances is None or self.weights is None:
            nearest = _distances(points.double(), self.centres).argmin(1)
            return torch.nn.functional.one_hot(nearest, len(self)).double()
        return _logs(points.double(), self.centres, self.variances, self.weights).softmax(1)


def fit_clusters(points: torch.Tensor, count: int, kind: Kind, generator: torch.Generator) -> Clusters:
    """Clusters of points [points, dimensions].

    Args:
        points: finite numbers.
        count: clusters; fewer where there are fewer different points.
        kind: "k-means" or "mixture".
        generator: draws the starts.

    Raises:
        DataError: a number is NaN or infinite, or there is no point.
    """
    points = points.double()
    if not len(points) or not bool(torch.isfinite(points).all()):
        why = "hold NaN or infinite values" if len(points) else "are none"
        raise DataError("the activations to cluster", why, "check the model, and give text")
    middle = points.mean(0)
    points = points - middle
    count = min(count, len(torch.unique(points, dim=0)))
    found = min((_k_means(points, count, generator) for _ in range(_STARTS)), key=lambda each: each[1])
    if kind == "k-means":
        return Clusters(found[0] + middle)
    mixture = _mixture(points, found[0])
    return Clusters(mixture.centres + middle, mixture.variances, mixture.weights)


def spread(points: torch.Tensor, clusters: Clusters) -> float:
    """Mean squared distance of points to their nearest centres."""
    return float(_distances(points.double(), clusters.centres).amin(1).mean())


def _k_means(points: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    """Lloyd's algorithm; centres and the mean squared distance."""
    centres, last = _start(points, count, generator), math.inf
    for _ in range(_ROUNDS):
        away, nearest = _quick_distances(points, centres).min(1)
        loss = float(away.mean())
        if loss >= last * (1 - _TOLERANCE):
            break
        last = loss
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)
        centres = sums / sizes.clamp(min=1)[:, None]
        for empty in (sizes == 0).nonzero()[:, 0].tolist():
            centres[empty] = points[_quick_distances(points, centres).amin(1).argmax()]
    return centres, last


def _start(points: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: each next centre is a point drawn by its squared distance to the nearest one."""
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    away = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        total = away.cumsum(0)
        place = torch.rand((), dtype=torch.float64, generator=generator) * total[-1]
        chosen.append(int(torch.searchsorted(total, place).clamp(max=len(points) - 1)))
        away = torch.minimum(away, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen].clone()


def _mixture(points: torch.Tensor, centres: torch.Tensor) -> Clusters:
    """Expectation and maximisation from k-means centres."""
    floor = max(_LEAST_VARIANCE * float(points.var(0, correction=0).mean()), 1e-300)
    nearest = _quick_distances(points, centres).argmin(1)
    shares, last = torch.nn.functional.one_hot(nearest, len(centres)).double(), -math.inf
    squares = points.square()
    while True:
        sizes = shares.sum(0).clamp(min=1e-12)
        means = shares.T @ points / sizes[:, None]
        variances = (shares.T @ squares / sizes[:, None] - means.square()).clamp(min=floor)
        weights = sizes / sizes.sum()
        logs = _quick_logs(points, squares, means, variances, weights)
        fit = float(logs.logsumexp(1).mean())
        if fit <= last + _ENOUGH:
            return Clusters(means, variances, weights)
        shares, last = logs.softmax(1), fit


def _distances(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Squared distances [points, centres], each by itself: no sum that another point or centre could round."""
    plain = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, centres, compute_mode=plain) for part in points.split(_BLOCK)]).square()


def _quick_distances(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The same as one matrix product; of centred points."""
    squares = points.square().sum(1, keepdim=True) + centres.square().sum(1)
    return squares.addmm_(points, centres.T, alpha=-2).clamp_(min=0)


def _logs(points: torch.Tensor, centres: torch.Tensor, variances: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Logarithms of weight times density, [points, clusters], without the constant."""
    scaled = [((part[:, None] - centres).square() / variances).sum(2) for part in points.split(_BLOCK)]
    return _constant(variances, weights) - torch.cat(scaled) / 2


def _quick_logs(
    points: torch.Tensor, squares: torch.Tensor, centres: torch.Tensor, variances: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The same as two matrix products; of centred points."""
    precise = 1 / variances
    constant = _constant(variances, weights) - (centres.square() * precise).sum(1) / 2
    return torch.addmm(constant, squares, precise.T, alpha=-0.5).addmm_(points, (centres * precise).T)


def _constant(variances: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weights.log() - variances.log().sum(1) / 2
