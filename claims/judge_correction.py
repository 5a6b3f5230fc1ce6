"""Is a pass rate nearer to the truth once it is corrected for its judge's errors? `python -m claims.judge_correction`.

Simulated evaluations: answers whose truth is known, a judge that finds 92 % of either kind (the accuracy that arXiv
2604.20833 reports of its judge), and a sample that people labelled, from which alone the correction knows the judge.
The error is the distance of the estimated pass rate from the true one. The control is the rate as judged. Where as many
answers pass as fail, such a judge is not biased, and a correction can only add noise: that is asked too. How often the
two 95 % intervals hold the truth is reported beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from claims.experiment import SEEDS, Experiment, Statement
from featherweight.core.rates import Confusion, Rate, corrected, corrected_interval

CLAIM = (
    "A pass rate that a model judged, 8 % of its verdicts wrong, is nearer to the truth once it is corrected by a "
    "labelled sample (Rogan and Gladen)."
)
ACCURACY, RUNS, DRAWS = 0.92, 400, 400


@dataclass(frozen=True)
class Setting:
    """Answers, the share of them that truly pass, and labelled answers of either kind."""

    answers: int
    truth: float
    labelled: int

    def __str__(self) -> str:
        return f"{self.truth:.0%} of {self.answers} pass, {2 * self.labelled} labels"


SETTINGS = (
    Setting(200, 0.98, 50),
    Setting(200, 0.90, 50),
    Setting(200, 0.50, 50),
    Setting(25, 0.98, 50),
    Setting(200, 0.98, 10),
)


def simulated(setting: Setting, generator: np.random.Generator) -> tuple[Rate, Confusion]:
    """What a judge says of the answers, and of the labelled sample."""
    passing = round(setting.truth * setting.answers)
    hits = generator.binomial(passing, ACCURACY) + generator.binomial(setting.answers - passing, 1 - ACCURACY)
    found, cleared = generator.binomial(setting.labelled, ACCURACY, 2)
    judge = Confusion(int(found), setting.labelled - int(found), int(cleared), setting.labelled - int(cleared))
    return Rate(int(hits), setting.answers), judge


def estimated(seen: Rate, judge: Confusion) -> float:
    return corrected(seen.rate, judge.sensitivity.rate, judge.specificity.rate)


def main() -> str:
    experiment = Experiment("judge-correction", CLAIM, unit="distance from the true pass rate")
    held: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        truth = round(setting.truth * setting.answers) / setting.answers
        inside = {"as judged": 0, "corrected": 0}
        for seed in SEEDS:
            generator = np.random.default_rng(seed)
            pairs = [simulated(setting, generator) for _ in range(RUNS)]
            judged = [abs(seen.rate - truth) for seen, _ in pairs]
            mended = [abs(estimated(seen, judge) - truth) for seen, judge in pairs]
            experiment.losses.setdefault(f"as judged, {setting}", []).append(judged)
            experiment.losses.setdefault(f"corrected, {setting}", []).append(mended)
            intervals = [corrected_interval(seen, judge, draws=DRAWS) for seen, judge in pairs]
            inside["as judged"] += sum(seen.interval[0] <= truth <= seen.interval[1] for seen, _ in pairs)
            inside["corrected"] += sum(low <= truth <= high for low, high in intervals)
        held[str(setting)] = {name: round(count / (RUNS * len(SEEDS)), 3) for name, count in inside.items()}
    print("95 % intervals that hold the truth:", held)
    statements = [Statement(f"corrected, {each}", f"as judged, {each}") for each in SETTINGS]
    return experiment.conclude(statements, {
        "model": "simulated verdicts", "calibration": f"labels of people, seeds {list(SEEDS)}",
        "evaluation": f"{RUNS} simulated evaluations a seed", "intervals that hold the truth": held,
    })  # fmt: skip


if __name__ == "__main__":
    main()
