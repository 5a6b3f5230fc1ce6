"""Whether a paired loss is below a margin: an exact unconditional test, and the upper bound that it implies.

The statistic is Tango's score of the loss at the margin. Its tail is summed over all tables, for the rate of gains that
makes it largest, so that the chance of passing a loss as large as the margin is at most 5 % at every number of cases
and every rate of changes. Asymptotic bounds promise that and do not keep it: Tango's own passes up to 5.3 %, Newcombe's
6.5 % where the parent holds 60 % of 200 cases. The rate of gains is sought in its 99.9 % interval, and the 0.1 % is
added to the result (Berger and Boos 1994). References: Tango 1998; Hsueh, Liu and Chen 2001.
"""

from __future__ import annotations

import functools

from featherweight.core.lazy import np, scipy

LEVEL = 0.05
_OUTSIDE = 1e-3  # chance that the rate of gains lies outside of where it is sought
_GRID = 33  # rates of gains that are tried, twice
_TAIL = 1e-12
_ACCURACY = 1e-5


def loss_below(lost: int, gained: int, count: int, margin: float) -> bool:
    """Whether the loss is shown to be below the margin, with a chance of at most 5 % to say so wrongly."""
    return p_value(lost, gained, count, margin) <= LEVEL


@functools.lru_cache(maxsize=4096)
def upper_bound(lost: int, gained: int, count: int) -> float:
    """The smallest margin that the loss is shown to be below; 1 if there is none."""
    low, high = (lost - gained) / max(count, 1), 1.0
    while high - low > _ACCURACY:
        middle = (low + high) / 2
        if middle > 0 and loss_below(lost, gained, count, middle):
            high = middle
        else:
            low = middle
    return high


@functools.lru_cache(maxsize=4096)
def p_value(lost: int, gained: int, count: int, margin: float) -> float:
    """Largest chance of as little loss as was seen, or less, if the true loss were the margin.

    Args:
        lost: cases that hold for the parent only.
        gained: cases that hold for the child only.
        count: all cases.
        margin: above 0 and below 1.
    """
    if count == 0 or not 0 < margin < 1:
        return 1.0
    seen = float(score(lost, gained, count, margin))
    low, high = _rates_of_gains(gained, count, margin)
    rates = np.linspace(low, high, _GRID)
    tails = _tails(seen, count, margin, rates)
    best = int(tails.argmax())
    closer = np.linspace(rates[max(best - 1, 0)], rates[min(best + 1, _GRID - 1)], _GRID)
    return min(float(max(tails.max(), _tails(seen, count, margin, closer).max())) + _OUTSIDE, 1.0)


def score(lost: np.ndarray | int, gained: np.ndarray | int, count: int, margin: float) -> np.ndarray:
    """Tango's score: how far the loss lies above the margin, in standard errors under the margin.

    Arguments may be arrays; the result has their shape.
    """
    lost, gained = np.asarray(lost, float), np.asarray(gained, float)
    linear = -lost - gained + (2 * count - lost + gained) * margin
    constant = -gained * margin * (1 - margin)
    rate = (np.sqrt(linear**2 - 8 * count * constant) - linear) / (4 * count)  # of gains, likeliest under the margin
    spread = count * (2 * rate + margin * (1 - margin))
    return (lost - gained - count * margin) / np.sqrt(spread)


def _rates_of_gains(gained: int, count: int, margin: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of the rate, cut where loss and gains would exceed all cases."""
    quantile = scipy.special.betaincinv
    low = quantile(gained, count - gained + 1, _OUTSIDE / 2) if gained else 0.0
    high = quantile(gained + 1, count - gained, 1 - _OUTSIDE / 2) if gained < count else 1.0
    possible = (1 - margin) / 2
    return min(float(low), possible), min(float(high), possible)


def _tails(seen: float, count: int, margin: float, rates: np.ndarray) -> np.ndarray:
    """Chance of a score of at most `seen` under each rate of gains, [rates]."""
    special = scipy.special
    gains = np.arange(_most_gains(count, float(rates.max())) + 1)
    losses = _most_losses(seen, count, margin, gains)
    gains, losses = gains[losses >= 0], losses[losses >= 0]
    ways = special.gammaln(count + 1) - special.gammaln(gains + 1) - special.gammaln(count - gains + 1)
    rates = rates[:, None]
    chance = np.exp(ways + special.xlogy(gains, rates) + special.xlog1py(count - gains, -rates))
    share = np.minimum((rates + margin) / (1 - rates), 1.0)  # of losses among the cases that are no gains
    return (chance * special.bdtr(losses, count - gains, share)).sum(1) + _TAIL


def _most_gains(count: int, rate: float) -> int:
    """So many gains that more have no chance worth counting."""
    return int(scipy.special.bdtrik(1 - _TAIL, count, rate)) + 1 if 0 < rate < 1 else count if rate else 0


def _most_losses(seen: float, count: int, margin: float, gains: np.ndarray) -> np.ndarray:
    """The most losses whose score, which grows with them, is at most `seen`, for each number of gains; -1 = none."""
    low, high = np.full(len(gains), -1), count - gains
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = score(middle, gains, count, margin) <= seen + 1e-9
        low, high = np.where(fits & (low < high), middle, low), np.where(fits | (low >= high), high, middle - 1)
    return low
