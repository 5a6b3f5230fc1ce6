"""What the claims on grids share: statements about shares of variance, and errors of backbones cell by cell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from claims.experiment import Experiment
from featherweight.plan.attribution import Attribution, Estimate
from featherweight.plan.findings import Findings
from featherweight.plan.grid import Outcome
from featherweight.plan.judging_rows import judging_noise
from featherweight.train.cells import UNTRAINED


class Errors(Experiment):
    """Errors of backbones, 1 - score: a row is an objective with an amount of data."""

    def note(self, outcomes: Sequence[Outcome], suffix: str = "") -> None:
        """Keeps the errors of every backbone, and of the untrained ones."""
        seeds = sorted({each.cell.seed for each in outcomes})
        for trained in (False, True):
            those = [each for each in outcomes if (each.cell.objective != UNTRAINED) == trained]
            for name in dict.fromkeys(each.cell.backbone for each in those):
                rows = [
                    [1 - each.score for each in those if each.cell.backbone == name and each.cell.seed == seed]
                    for seed in seeds
                ]
                called = f"{name}{suffix}" if trained else f"{name}{suffix}, untrained"
                self.losses[called] = rows
                mean = sum(map(sum, rows)) / sum(map(len, rows))
                print(f"{time.monotonic() - self.started:5.0f} s  {called:40s} {mean:.4f}", flush=True)


def fit_of(outcomes: Sequence[Outcome], objectives: Sequence[str] = ()) -> Attribution:
    """The fit of trained cells, of some objectives or of all."""
    cells = [
        each for each in outcomes
        if each.cell.objective != UNTRAINED and (not objectives or each.cell.objective in objectives)
    ]  # fmt: skip
    noise = judging_noise([each.trial for each in cells])
    return Attribution([each.cell for each in cells], [each.score for each in cells], noise=noise)


def stated(statement: str, difference: Estimate, unit: str) -> dict[str, Any]:
    """A statement that a number is above zero, judged by its interval."""
    low, high = difference.interval
    return {
        "statement": statement, "difference": round(difference.value, 4), "interval": [round(low, 4), round(high, 4)],
        "outcome": "holds" if low > 0 else "contradicted" if high < 0 else "undecided", "unit": unit,
    }  # fmt: skip


def plain(found: Findings) -> dict[str, Any]:
    """Findings for a record, rounded."""
    return {
        "shares": {
            each.term: {
                "share": round(each.share.value, 4), "interval": [round(end, 4) for end in each.share.interval],
                "noise_alone": round(each.chance, 4),
            }
            for each in found.shares
        },
        "trend": {
            backbone: {
                objective: {str(rows): round(score, 4) for rows, score in by_rows.items()}
                for objective, by_rows in by_objective.items()
            }
            for backbone, by_objective in found.trend.items()
        },
        "gain_of_twice_the_rows": {
            name: [round(number, 4) for number in (each.value, *each.interval)] for name, each in found.slopes.items()
        },
        "change_places_with_more_data": [
            [each.first, each.second, each.flips] for each in found.orders if each.flips != "no"
        ],
        "spend_on": found.advice.spend_on,
    }  # fmt: skip
