"""Loss on held-out examples before and after training, with paired bootstrap intervals over examples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from featherweight.core.lazy import np
from featherweight.measure.quality import RESAMPLES, interval_of, resampled

Interval = tuple[float, float]


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean negative log-likelihood of what counts, nats a token, with 95 % intervals.

    Attributes:
        before, after: the loss.
        change: after minus before, its interval from the same resamples of both.
        tokens, examples: how much was measured.
    """

    before: float
    before_interval: Interval
    after: float
    after_interval: Interval
    change: float
    change_interval: Interval
    tokens: int
    examples: int

    @property
    def perplexities(self) -> tuple[float, float]:
        """Before and after."""
        return math.exp(min(self.before, 700)), math.exp(min(self.after, 700))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**plain, "perplexities": list(self.perplexities)}


def compare_losses(before: np.ndarray, after: np.ndarray, counts: np.ndarray, seed: int = 0) -> HeldOutLoss:
    """The change of the loss.

    Args:
        before: sum of the losses of each example, float64 [examples].
        after: the same after training.
        counts: predictions of each example, [examples].
        seed: of the resamples.
    """
    draws = resampled(len(counts), seed, RESAMPLES)
    totals = draws @ counts
    one, other = draws @ before / totals, draws @ after / totals
    first, last = before.sum() / counts.sum(), after.sum() / counts.sum()
    return HeldOutLoss(
        float(first), interval_of(one), float(last), interval_of(other), float(last - first), interval_of(other - one),
        int(counts.sum()), len(counts),
    )  # fmt: skip
