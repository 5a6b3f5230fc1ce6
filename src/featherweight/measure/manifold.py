"""How many dimensions a cloud of vectors really has: TwoNN, PCA participation ratio, linear rank.

TwoNN (arXiv 1803.06992) looks at the ratio of each point's distances to its second and first neighbour: it follows a
curved manifold, and comes out too low from about ten dimensions up (a tanh of a random map of 16 dimensions to 256
gives 14.6 with 4,000 points). The participation ratio (sum of eigenvalues)^2 / sum of squares counts linear directions,
weighted by variance. Neither bounds the size of a network that computes these vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from featherweight.core.lazy import torch

FEWEST = 32  # below this the fit of TwoNN has fewer than thirty ratios left
_BLOCK = 1024
_DISCARDED = 0.1  # the largest ratios are the noisiest; the paper's choice


@dataclass(frozen=True)
class Manifold:
    """Dimensions of a cloud of vectors.

    Attributes:
        points: different vectors that were looked at.
        width: numbers in a vector.
        two_nn: intrinsic dimension by TwoNN.
        participation: PCA participation ratio.
        linear: principal components that hold 99 % of the variance.
    """

    points: int
    width: int
    two_nn: float
    participation: float
    linear: int


def manifold(vectors: torch.Tensor) -> Manifold | None:
    """Dimensions of vectors [points, width], repetitions left out; None where there are too few."""
    points = torch.unique(vectors.float(), dim=0)
    if len(points) < FEWEST:
        return None
    spectrum = variances(points)
    held = (spectrum.cumsum(0) / spectrum.sum()).tolist()
    linear = 1 + sum(share < 0.99 for share in held[:-1])
    return Manifold(len(points), points.shape[1], two_nn(points), _participation(spectrum), linear)


def two_nn(points: torch.Tensor) -> float:
    """Intrinsic dimension of different points [count, width]: the slope of -log(1 - F) over log(r2 / r1)."""
    logs = neighbour_ratios(points).log().sort().values
    logs = logs[torch.isfinite(logs)]
    kept = max(round(len(logs) * (1 - _DISCARDED)), 1)
    empirical = torch.arange(1, kept + 1, dtype=torch.float64) / len(logs)
    across, up = logs[:kept], -torch.log1p(-empirical)
    square = float(across @ across)
    return float(across @ up) / square if square else math.inf


def neighbour_ratios(points: torch.Tensor) -> torch.Tensor:
    """Distance to the second neighbour over distance to the first, float64 [count]."""
    points = points.double() - points.double().mean(0)
    squares = (points**2).sum(1)
    ratios = []
    for block in points.split(_BLOCK):
        # Matrix products find the neighbours; their distances are computed again, without cancellation.
        order = (squares - 2 * block @ points.T).topk(3, largest=False).indices  # one of them is the point itself
        distances = (block[:, None] - points[order]).norm(dim=-1).sort().values
        ratios.append(distances[:, 2] / distances[:, 1])
    return torch.cat(ratios)


def participation_ratio(points: torch.Tensor) -> float:
    """(sum of variances)^2 / sum of squared variances along the principal components of points [count, width]."""
    return _participation(variances(points))


def _participation(spectrum: torch.Tensor) -> float:
    return float(spectrum.sum() ** 2 / (spectrum**2).sum().clamp(min=1e-300))


def variances(points: torch.Tensor) -> torch.Tensor:
    """Variance along each principal component, largest first, float64."""
    centred = points.double() - points.double().mean(0)
    spectrum: torch.Tensor = torch.linalg.svdvals(centred) ** 2 / len(points)
    return spectrum
