"""Everything that a finished grid says: what mattered, who is ahead, whether that turns around, where to spend."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featherweight.plan.attribution import Attribution, Estimate, Share
from featherweight.plan.grid import Outcome
from featherweight.plan.judging_rows import judging_noise
from featherweight.plan.spending import Advice, Prices, advice
from featherweight.plan.standing import Order, Standing, orders, standings
from featherweight.train.cells import UNTRAINED


@dataclass(frozen=True)
class Findings:
    """What a grid says.

    Attributes:
        shares: of the variance, by factor.
        backbones, objectives: the best first.
        slopes: what a backbone gains by twice the rows, by backbone; empty for one amount of data.
        trend: mean score by backbone, objective and amount of data.
        orders: of every two backbones at both ends of the amounts of data.
        advice: where to spend.
        unfinished: cells whose best learning rate is the last of those tried.
        failed: cells without a score.
    """

    shares: tuple[Share, ...]
    backbones: tuple[Standing, ...]
    objectives: tuple[Standing, ...]
    slopes: Mapping[str, Estimate]
    trend: Mapping[str, Mapping[str, Mapping[int, float]]]
    orders: tuple[Order, ...]
    advice: Advice
    unfinished: int
    failed: int

    def share(self, term: str) -> Share:
        """The share of a term."""
        return next(each for each in self.shares if each.term == term)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is no number is null."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)
        return plain


def findings(outcomes: Sequence[Outcome], prices: Prices | None = None, seed: int = 0) -> Findings:
    """What the outcomes of a grid say.

    Args:
        outcomes: as `run_grid` gives them.
        prices: of a run and of a row.
        seed: of the bootstrap.

    Raises:
        DataError: fewer than three cells have a score.
    """
    trained = [each for each in outcomes if each.cell.objective != UNTRAINED]
    cells = [each for each in trained if not each.trial.failed]
    baselines = [each for each in outcomes if each.cell.objective == UNTRAINED and not each.trial.failed]
    noise = judging_noise([each.trial for each in cells], seed)
    fit = Attribution([each.cell for each in cells], [each.score for each in cells], seed, noise)
    several = len({each.cell.rows for each in cells}) > 1
    names = list(dict.fromkeys(each.cell.backbone for each in cells))
    return Findings(
        tuple(fit.shares),
        tuple(standings(cells, baselines, lambda each: each.cell.backbone, seed)),
        tuple(standings(cells, [], lambda each: each.cell.objective, seed)),
        {name: fit.slope(name) for name in names} if several else {},
        _trend(cells),
        tuple(orders(cells, noise, seed)),
        advice(fit, cells, prices or Prices()),
        sum(each.edge for each in cells),
        len(trained) - len(cells),
    )


def _trend(cells: Sequence[Outcome]) -> dict[str, dict[str, dict[int, float]]]:
    """Mean over seeds, by backbone, objective and amount of data."""
    groups: dict[str, dict[str, dict[int, list[float]]]] = {}
    for each in cells:
        cell = each.cell
        groups.setdefault(cell.backbone, {}).setdefault(cell.objective, {}).setdefault(cell.rows, []).append(each.score)
    return {
        backbone: {
            objective: {rows: statistics.fmean(scores) for rows, scores in sorted(by_rows.items())}
            for objective, by_rows in by_objective.items()
        }
        for backbone, by_objective in groups.items()
    }
