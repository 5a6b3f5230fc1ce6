"""Does one more alternative reorder the others? Random problems and an outlier. `python -m claims.frame_ranking`.

2,000 problems a seed: 8 alternatives with 4 values in [0, 1], random weights; then one more alternative with values in
[0, 5]. Measured is the share of the 28 pairs of the first eight whose order changes. The frame is declared beforehand:
nothing is vetoed, and what is better than 2 counts as 2. Controls: TOPSIS with each of its usual normalisations, which
take their ideal from what is present, and the frame with such a normalisation after veto and cap.
"""

from __future__ import annotations

import itertools

import numpy as np

from claims.experiment import SEEDS, Experiment, Statement
from featherweight.core.reference_frame import METHODS, Criterion, Method, rank

CLAIM = "Fixed frontiers of what is desired keep one more alternative from reordering the others (arXiv 2606.07253)."
PROBLEMS, ALTERNATIVES, CRITERIA = 2000, 8, 4
DESIRED, OUTLIER = 2.0, 5.0
Alternatives = dict[str, dict[str, float]]


def named(values: np.ndarray, prefix: str) -> Alternatives:
    """Alternatives from an array [alternatives, criteria]."""
    return {f"{prefix}{row}": {str(j): float(x) for j, x in enumerate(each)} for row, each in enumerate(values)}


def reversed_pairs(first: Alternatives, more: Alternatives, frame: list[Criterion], method: Method) -> float:
    """Share of the pairs of `first` that the two rankings order differently."""
    before, after = dict(rank(first, frame, method).ranked), dict(rank({**first, **more}, frame, method).ranked)
    pairs = list(itertools.combinations(first, 2))
    return sum((before[a] - before[b]) * (after[a] - after[b]) < 0 for a, b in pairs) / len(pairs)


def main() -> str:
    experiment = Experiment("frame-ranking", CLAIM, "share of reversed pairs")
    for seed in SEEDS:
        draw = np.random.default_rng(seed)
        rows: dict[Method, list[float]] = {method: [] for method in METHODS}
        for _ in range(PROBLEMS):
            frame = [Criterion(str(j), 0.0, DESIRED, float(w)) for j, w in enumerate(draw.dirichlet([1.0] * CRITERIA))]
            first = named(draw.random((ALTERNATIVES, CRITERIA)), "first ")
            outlier = named(OUTLIER * draw.random((1, CRITERIA)), "outlier ")
            for method in METHODS:
                rows[method].append(reversed_pairs(first, outlier, frame, method))
        for method in METHODS:
            experiment.losses.setdefault(method, []).append(rows[method])
    none = {
        "statement": "anchored reverses no pair, in every seed",
        "difference": round(max(max(each) for each in experiment.losses["anchored"]), 4),
        "interval": [0.0, round(max(max(each) for each in experiment.losses["anchored"]), 4)],
        "outcome": "contradicted" if any(map(any, experiment.losses["anchored"])) else "holds",
        "unit": "share of reversed pairs",
    }
    facts = {
        "model": f"{PROBLEMS} random problems of {ALTERNATIVES} alternatives and {CRITERIA} criteria a seed",
        "calibration": f"a frame from 0 to {DESIRED:g} and random weights, seeds {list(SEEDS)}",
        "evaluation": f"the pairs of the first {ALTERNATIVES} after one more, with values up to {OUTLIER:g}, joins",
    }
    statements = [
        Statement("anchored", "vector"), Statement("vector", "classical"), Statement("classical", "min-max"),
    ]  # fmt: skip
    return experiment.conclude(statements, facts, [none])


if __name__ == "__main__":
    main()
