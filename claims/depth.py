"""Dropping blocks by cosine against random blocks and the reverse order. `python -m claims.depth`."""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.techniques.prune.depth import Depth

CLAIM = "Blocks whose output points where their input did can be dropped at the least loss (arXiv 2403.03853)."
DROPS = (2, 4, 7)


def main() -> str:
    experiment = Experiment("depth", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    statements = []
    for drop in DROPS:
        experiment.measure(f"cosine, {drop} blocks", Depth(drop=drop))
        experiment.measure(f"random, {drop} blocks", Depth(drop=drop, score="random"))
        experiment.measure(f"reversed, {drop} blocks", Depth(drop=drop, score="reversed"))
        statements += [
            Statement(f"cosine, {drop} blocks", f"{other}, {drop} blocks") for other in ("random", "reversed")
        ]
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
