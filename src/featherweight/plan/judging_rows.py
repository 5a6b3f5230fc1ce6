"""How far the scores of a grid may be off because of the rows that judged: all cells are asked the same ones.

Rows are drawn again, the same draws for every cell, so that a difference of two cells moves only as much as the rows do
on which they differ. Repeating seeds does not show this: every seed is judged on the same rows, and on noise alone one
backbone may be ahead in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.core.lazy import np
from featherweight.measure.quality import RESAMPLES, resampled
from featherweight.train.cells import Trial

_AT_ONCE = 200  # draws in memory together


def judging_noise(trials: Sequence[Trial], seed: int = 0) -> np.ndarray:
    """What each score would have been by in each draw, less what it was, [draws, cells]; mean over tasks.

    Args:
        trials: of the cells, with a score each.
        seed: of the draws.
    """
    tasks = list(trials[0].scores)
    moved = np.zeros((RESAMPLES, len(trials)))
    if not all(trial.rows.get(task) for trial in trials for task in tasks):
        return moved
    for number, task in enumerate(tasks):
        rows = np.array([trial.rows[task] for trial in trials]).T
        count = len(rows)
        for first in range(0, RESAMPLES, _AT_ONCE):
            size = min(_AT_ONCE, RESAMPLES - first)
            draws = resampled(count, seed + 7919 * number + first, size)
            moved[first : first + size] += (draws @ rows / count - rows.mean(0)) / len(tasks)
    return moved
