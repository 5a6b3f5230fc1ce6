"""What the scores of a grid come from: shares of their variance by factor, levels and slopes, with intervals.

    score ~ backbone + objective + log2 rows + backbone : log2 rows + seed            by least squares

A factor's share, eta squared, is the sum of squares that it explains beyond all terms that do not contain it (type II),
over the total. Noise alone gives a term of d degrees of freedom d / (n - 1) of n cells on average: that is `chance`.
Intervals are the middle 95 % of a wild bootstrap: each cell's residual, scaled by its leverage, keeps its size and gets
a random sign, so cells near a ceiling are not made noisier by others. What the formula leaves out (an objective that
suits one backbone) is in the residuals and widens them. The rows that judge are drawn again too (`plan.judging_rows`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from featherweight.core.errors import DataError
from featherweight.core.lazy import np
from featherweight.measure.quality import RESAMPLES, interval_of
from featherweight.train.cells import Cell

BACKBONE, OBJECTIVE, ROWS, SEED = "backbone", "objective", "log rows", "seed"
LEVEL_OF: Mapping[str, Callable[[Cell], str]] = {
    BACKBONE: lambda each: each.backbone, OBJECTIVE: lambda each: each.objective, SEED: lambda each: str(each.seed),
}  # fmt: skip
"""The level of each factor that a cell has."""
INTERACTION = "backbone : log rows"
TERMS = (BACKBONE, OBJECTIVE, ROWS, INTERACTION, SEED)
_CONTAINED = {BACKBONE: (INTERACTION,), ROWS: (INTERACTION,)}
_NOTHING = 1e-12  # a total sum of squares below it is no variation


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; (nan, nan) where the grid is too small for one."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Share:
    """A factor's share of the variance.

    Attributes:
        degrees: of freedom.
        chance: its share on average where everything is noise.
    """

    term: str
    share: Estimate
    degrees: int
    chance: float


class Attribution:
    """The fit of a grid's scores.

    Args:
        cells: those that have a score.
        scores: of each.
        seed: of the bootstrap.
        noise: what other rows that judge would have changed, [draws, cells]; None = nothing is known of them.

    Raises:
        DataError: there are fewer than three.
    """

    def __init__(
        self, cells: Sequence[Cell], scores: Sequence[float], seed: int = 0, noise: np.ndarray | None = None
    ) -> None:
        if len(cells) < 3:
            raise DataError(f"{len(cells)} cells with a score", "cannot be told apart", "cross more, or lower the rate")
        self.cells, self.scores = list(cells), np.asarray(scores, dtype=np.float64)
        self.levels = {factor: _levels(map(level_of, cells)) for factor, level_of in LEVEL_OF.items()}
        self._columns = self._design()
        self.seed, self.noise = seed, 0.0 if noise is None else noise

    def _design(self) -> dict[str, np.ndarray]:
        """The columns of each term: effects of levels that add up to zero, and log2 rows less their mean."""
        columns = {
            factor: _effects(list(map(level_of, self.cells)), self.levels[factor])
            for factor, level_of in LEVEL_OF.items()
        }
        rows = np.log2([each.rows for each in self.cells])
        rows = (rows - rows.mean())[:, None]
        columns[ROWS] = rows if np.ptp(rows) > 0 else rows[:, :0]
        columns[INTERACTION] = columns[BACKBONE] * columns[ROWS] if columns[ROWS].size else rows[:, :0]
        return columns

    def _matrix(self, terms: Sequence[str]) -> np.ndarray:
        return np.hstack([np.ones((len(self.cells), 1)), *(self._columns[term] for term in terms)])

    @functools.cached_property
    def resampled(self) -> np.ndarray | None:
        """Scores of the wild bootstrap, [resamples, cells]; None where nothing is left to estimate noise from."""
        basis = _basis(self._matrix(TERMS))
        free = len(self.cells) - basis.shape[1]
        if free < 1:
            return None
        fitted = basis @ (basis.T @ self.scores)
        leverage = np.minimum((basis**2).sum(1), 1 - 1e-9)
        residuals = (self.scores - fitted) / np.sqrt(1 - leverage)
        signs = np.random.default_rng(self.seed).integers(0, 2, (RESAMPLES, len(self.cells))) * 2 - 1
        drawn: np.ndarray = fitted + residuals * signs + self.noise
        return drawn

    def estimate(self, of: Callable[[np.ndarray], np.ndarray], tail: float = 0.025) -> Estimate:
        """A statistic of the scores.

        Args:
            of: from scores [samples, cells] to a value each, [samples].
            tail: share of the bootstrap on each side of the interval.
        """
        value = float(of(self.scores[None])[0])
        if self.resampled is None:
            return Estimate(value, (math.nan, math.nan))
        return Estimate(value, interval_of(of(self.resampled), tail))

    @property
    def shares(self) -> list[Share]:
        """One for each term, and what is left."""
        degrees = {term: self._columns[term].shape[1] for term in TERMS}
        count = len(self.cells) - 1
        found = [
            Share(term, self.estimate(functools.partial(self._share, term)), degrees[term], degrees[term] / count)
            for term in TERMS
        ]
        left = count - sum(degrees.values())
        return [*found, Share("residual", self.estimate(self._rest), left, left / count)]

    def lead(self, one: str, other: str) -> Estimate:
        """The share of one term less that of another."""
        return self.estimate(lambda scores: self._share(one, scores) - self._share(other, scores))

    def _share(self, term: str, scores: np.ndarray) -> np.ndarray:
        others = [each for each in TERMS if each != term and each not in _CONTAINED.get(term, ())]
        explained = _explained(self._matrix([*others, term]), scores) - _explained(self._matrix(others), scores)
        return _over(explained, _total(scores))

    def _rest(self, scores: np.ndarray) -> np.ndarray:
        centred = scores - scores.mean(1, keepdims=True)
        total = _total(scores)
        return _over(total - _explained(self._matrix(TERMS), centred), total)

    def _coefficients(self) -> np.ndarray:
        solved: np.ndarray = np.linalg.pinv(self._matrix(TERMS))
        return solved

    def weights(self, term: str, level: str | None = None) -> np.ndarray:
        """What a level's effect, or the slope a doubling, is as a weighted sum of the scores, [cells].

        Args:
            term: BACKBONE, OBJECTIVE or ROWS.
            level: of a factor: its distance from the mean of all levels; with ROWS, a backbone: its own slope less the
                mean slope; None = the mean slope.
        """
        known = INTERACTION if term == ROWS and level is not None else term
        first = 1 + sum(self._columns[each].shape[1] for each in TERMS[: TERMS.index(known)])
        part = self._coefficients()[first : first + self._columns[known].shape[1]]
        if not len(part):
            return np.zeros(len(self.cells))
        if level is None:
            return part[0]
        names = self.levels[BACKBONE if term == ROWS else term]
        place = names.index(level)
        return part[place] if place < len(part) else -part.sum(0)

    def effect(self, term: str, level: str | None = None, tail: float = 0.025) -> Estimate:
        """The value of `weights`, with its interval."""
        weights = self.weights(term, level)
        return self.estimate(lambda scores: scores @ weights, tail)

    def slope(self, backbone: str) -> Estimate:
        """What a backbone gains by twice the rows."""
        weights = self.weights(ROWS) + self.weights(ROWS, backbone)
        return self.estimate(lambda scores: scores @ weights)


def _levels(names: object) -> list[str]:
    """The different names, in the order in which they first come."""
    return list(dict.fromkeys(names))  # type: ignore[call-overload]


def _effects(names: Sequence[str], levels: Sequence[str]) -> np.ndarray:
    """Columns of a factor whose effects add up to zero, [cells, levels - 1]."""
    columns = np.zeros((len(names), len(levels) - 1))
    for row, name in enumerate(names):
        place = levels.index(name)
        columns[row] = -1.0 if place == len(levels) - 1 else np.arange(len(levels) - 1) == place
    return columns


def _basis(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of a matrix."""
    left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    basis: np.ndarray = left[:, sizes > sizes[0] * 1e-10]
    return basis


def _explained(matrix: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Sum of squares of the fitted values, [samples]."""
    squares: np.ndarray = ((scores @ _basis(matrix)) ** 2).sum(1)
    return squares


def _total(scores: np.ndarray) -> np.ndarray:
    squares: np.ndarray = ((scores - scores.mean(1, keepdims=True)) ** 2).sum(1)
    return squares


def _over(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Shares between 0 and 1; nothing of nothing is nothing."""
    shares: np.ndarray = np.where(total > _NOTHING, np.clip(part, 0, None) / np.maximum(total, _NOTHING), 0.0)
    return shares
