"""Healing after a cut and on a rounded grid, against the same bytes without it. `python -m claims.heal`.

The control is the same model with the same formats and bytes, unhealed. Few steps on few short rows: what a minute of
two processor cores buys. The rows that healing judges itself by are calibration rows; the losses here are held out.
"""

from __future__ import annotations

from claims.experiment import Experiment, Statement
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build
from featherweight.techniques.adapt.heal import Heal

CLAIM = (
    "Training towards the parent's logits and hidden states for a minute (arXiv 2407.14679) wins back part of what a cut"
    " or a rounding lost, at the same bytes."
)
SEEDS = (0, 1, 2)
HEAL = {"batch": 2, "probe": 4, "checks": 3, "patience": 3}
CUT = build("width", {"ffn": 0.75})
ROUND = build("rtn", {"format": "Q4_0"})


def recipe(*steps: Technique) -> Recipe:
    return Recipe(steps)


def main() -> str:
    experiment = Experiment("heal", CLAIM)
    experiment.measure("parent", None, seeds=[0])
    experiment.measure("ffn 0.75", CUT, SEEDS)
    experiment.measure("ffn 0.75, healed", recipe(CUT, Heal(**HEAL, steps=20)), SEEDS)
    experiment.measure("rtn Q4_0", ROUND, seeds=[0])
    experiment.measure("rtn Q4_0, healed on its grid", recipe(ROUND, Heal(**HEAL, steps=12, zeros="free")), SEEDS)
    pairs = [("ffn 0.75, healed", "ffn 0.75"), ("rtn Q4_0, healed on its grid", "rtn Q4_0")]
    return experiment.conclude([Statement(better, worse) for better, worse in pairs])


if __name__ == "__main__":
    main()
