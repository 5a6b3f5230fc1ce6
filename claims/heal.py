"""Healing after a cut and on a rounded grid, against the same bytes without it. `python -m claims.heal`.

The control is the same model with the same formats and bytes, unhealed. Few steps on few short rows: what a minute of
two processor cores buys. The rows that healing judges itself by are calibration rows; the losses here are held out.
"""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.core.run import Run
from featherweight.core.technique import Technique, build
from featherweight.techniques.adapt.heal import Heal

CLAIM = (
    "Training towards the parent's logits and hidden states for a minute (arXiv 2407.14679) wins back part of what a "
    "cut or a rounding lost, at the same bytes."
)
SEEDS = (0, 1)
QUICK = {"batch": 2, "checks": 3}


def pair(experiment: Experiment, name: str, before: Technique, heal: Heal) -> Statement:
    """Measures a compressed model without and with healing; both have the same tensors in the same formats."""
    for seed in SEEDS:
        run = Run(calibration=experiment.calibration(seed), seed=seed, parent=experiment.model)
        compressed = before.apply(experiment.model, run)
        experiment.measure(name, None, [seed], parent=compressed)
        experiment.measure(f"{name}, healed", heal, [seed], parent=compressed)
    return Statement(f"{name}, healed", name)


def main() -> str:
    experiment = Experiment("heal", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    rounded = build("rtn", {"format": "Q4_0"})
    statements = [
        pair(experiment, "ffn 0.75", build("width", {"ffn": 0.75}), Heal(**QUICK, steps=14)),
        pair(experiment, "rtn Q4_0", rounded, Heal(**QUICK, steps=10, zeros="free")),
    ]
    return experiment.conclude(statements)


if __name__ == "__main__":
    main()
