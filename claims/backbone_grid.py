"""Backbone before data, on waves of six frequencies. `python -m claims.backbone_grid`.

Three backbones of 6,500 parameters (diagonal state space, causal convolution, causal attention) learn from waves
without labels for 250 updates of 64 rows, by CPC (offset 4, 16 negatives), by a JEPA-like and by a data2vec-like
objective, on 300, 1,500 or 6,000 rows. A linear probe with 300 labels then tells the frequency of 2,000 others.
Control: the samples of every row in an order of their own, for learning and for judging. A seed is the weights, which
rows, their order, the labelled rows and the masks. Losses are shares of errors, balanced over classes.
"""

from __future__ import annotations

import torch

from claims.experiment import SEEDS, Statement
from claims.grid_statements import Errors, fit_of, plain, stated
from featherweight.core.run import Run
from featherweight.plan.attribution import BACKBONE, ROWS, Estimate
from featherweight.plan.findings import findings
from featherweight.plan.grid import Grid, Outcome, run_grid
from featherweight.train.head import Fitting
from featherweight.train.objectives.registry import usual_objectives
from featherweight.train.sequence_cells import SequenceCells, suited
from featherweight.verbs.grid_worlds import world_of_waves

CLAIM = (
    "Which backbone is pretrained matters more than how much data it is pretrained on, under every objective; where "
    "order carries nothing, that is over (arXiv 2605.12241, on electrocardiograms there)."
)
BACKBONES = ("state-space", "convolution", "attention")
AMOUNTS, STEPS, BATCH = (300, 1500, 6000), 250, 64
_COLLAPSED = 0.02  # of the score, between the best and the worst backbone


def outcomes_of(shuffled: bool, amounts: tuple[int, ...]) -> list[Outcome]:
    """Every cell of a grid."""
    world = world_of_waves(0, shuffled)
    known = usual_objectives((), {}, 64, False)
    domain = SequenceCells(world, BACKBONES, known, suited(world), Fitting(STEPS, 3e-3, 1e-3, BATCH))
    return run_grid(Grid(BACKBONES, tuple(known), amounts, len(SEEDS), (3e-3,)), domain, Run())


def spread_of(outcomes: list[Outcome]) -> Estimate:
    """How much less than 2 points lie between the best and the worst backbone of a grid."""
    fit = fit_of(outcomes)
    effects = {name: fit.effect(BACKBONE, name).value for name in BACKBONES}
    best, worst = max(BACKBONES, key=lambda name: effects[name]), min(BACKBONES, key=lambda name: effects[name])
    weights = fit.weights(BACKBONE, best) - fit.weights(BACKBONE, worst)
    return fit.estimate(lambda scores: _COLLAPSED - scores @ weights)


def main() -> str:
    torch.set_num_threads(1)
    experiment = Errors("backbone_grid", CLAIM, "error rate")
    ordered = outcomes_of(False, AMOUNTS)
    experiment.note(ordered)
    control = outcomes_of(True, AMOUNTS[::2])
    experiment.note(control, ", shuffled")
    share, collapsed = "share of variance", "with samples shuffled, less than 2 points lie between all backbones"
    found = [
        stated(
            f"the backbone explains more than the data ({name})", fit_of(ordered, [name]).lead(BACKBONE, ROWS), share
        )
        for name in ("cpc", "jepa", "data2vec")
    ]
    found.append(stated(collapsed, spread_of(control), "score"))
    reverse = fit_of(control).lead(ROWS, BACKBONE)
    found.append(stated("with samples shuffled, the data explains more than the backbone", reverse, share))
    facts = {
        "ordered": plain(findings(ordered)), "shuffled": plain(findings(control)),
        "model": "backbones of 6,500 parameters, 2 layers, 32 wide",
        "calibration": f"{STEPS} updates of {BATCH} rows, {AMOUNTS} rows in all, seeds {list(SEEDS)}",
        "evaluation": "a linear probe with 300 labels, 2,000 waves",
    }  # fmt: skip
    statements = [
        Statement("state-space", "convolution"), Statement("state-space", "attention"),
        Statement("state-space, untrained", "convolution"), Statement("convolution", "attention"),
    ]  # fmt: skip
    return experiment.conclude(statements, facts, found)


if __name__ == "__main__":
    main()
