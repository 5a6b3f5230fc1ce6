"""Backbone before data, on electrocardiograms and the UCR archive as packages hold them. `python -m claims.ecg_grid`.

Each set has networks of its own: three backbones of 6,500 parameters behind an encoder that leaves at most 64 positions
learn from a quarter or all of its training signals for 100 updates of 32 rows, by CPC and by a JEPA-like and a
data2vec-like objective; a softmax regression on frozen features with at most 300 labels is judged on the set's test
part. A cell's score is the mean over sets, and the sets are the tasks that ranks are averaged over. A seed is the
weights, which rows, their order, the labelled rows and the masks. Losses are shares of errors, balanced over classes.

There is no large electrocardiogram set in any package: what is here is a few minutes (`claims.packaged_signals`), so
this says nothing of the paper's 26 clinical tasks and 11 million records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from claims.experiment import SEEDS, Statement
from claims.grid_statements import Errors, fit_of, plain, stated
from claims.packaged_signals import ARCHIVE, ECG, world
from featherweight.core.errors import MissingExtra
from featherweight.core.run import Run
from featherweight.plan.attribution import BACKBONE, ROWS
from featherweight.plan.findings import findings
from featherweight.plan.grid import Grid, Outcome, run_grid
from featherweight.train.cells import UNTRAINED
from featherweight.train.head import Fitting
from featherweight.train.objectives.registry import usual_objectives
from featherweight.train.sequence_cells import Design, SequenceCells

CLAIM = (
    "On electrocardiograms a state-space backbone is ahead of attention and convolution under every objective, CPC is "
    "the best objective, and the backbone matters more than the amount of data (arXiv 2605.12241)."
)
BACKBONES, SHARES = ("state-space", "convolution", "attention"), (25, 100)
STEPS, BATCH, POSITIONS = 100, 32, 64


def outcomes_of(name: str) -> list[Outcome]:
    """Every cell of a set; amounts of data in percent."""
    here = world(name)
    stride = -(-here.inputs.shape[1] // POSITIONS)
    design = Design(kernels=(max(3, 2 * stride - 1), 1), strides=(stride, 1))
    known = usual_objectives((), {}, here.positions(design), False)
    domain = SequenceCells(here, BACKBONES, known, design, Fitting(STEPS, 3e-3, 1e-3, BATCH))
    percent = {round(len(here.inputs) * share / 100): share for share in SHARES}
    found = run_grid(Grid(BACKBONES, tuple(known), tuple(percent), len(SEEDS), (3e-3,)), domain, Run())
    return [replace(each, cell=replace(each.cell, rows=percent.get(each.cell.rows, 0))) for each in found]


def joined(parts: Sequence[list[Outcome]]) -> list[Outcome]:
    """The same cells on several sets, as one cell with several tasks."""
    found = []
    for cells in zip(*parts, strict=True):
        scores = {task: score for each in cells for task, score in each.trial.scores.items()}
        rows = {task: each for cell in cells for task, each in cell.trial.rows.items()}
        found.append(replace(cells[0], trial=replace(cells[0].trial, scores=scores, rows=rows)))
    return found


def main() -> str:
    torch.set_num_threads(1)
    try:
        world(ECG[0]), world(ECG[1])
    except MissingExtra as error:
        print(f"skipped: {error}")
        return "skipped"
    experiment = Errors("ecg_grid", CLAIM, "error rate")
    parts = {}
    for name in (*ECG, *ARCHIVE):
        parts[name] = outcomes_of(name)
        experiment.note(parts[name], f", {name}")
    hearts, everything = joined([parts[name] for name in ECG]), joined(list(parts.values()))
    experiment.losses.clear()
    experiment.note(hearts, ", ECG")
    experiment.note(everything, ", all sets")
    for objective in ("cpc", "jepa", "data2vec"):
        those = [each for each in hearts if each.cell.objective == objective]
        experiment.losses[f"{objective}, ECG"] = [
            [1 - each.score for each in those if each.cell.seed == seed] for seed in SEEDS
        ]
    share = "share of variance"
    found = [
        stated("the backbone explains more than the data, ECG", fit_of(hearts).lead(BACKBONE, ROWS), share),
        stated("the backbone explains more than the data, all sets", fit_of(everything).lead(BACKBONE, ROWS), share),
    ]
    said = findings(everything)
    facts = {
        "ecg": plain(findings(hearts)), "all_sets": plain(said),
        "ranks_over_sets": {each.name: [round(each.rank.value, 2), *each.rank.interval] for each in said.backbones},
        "by_set": {
            name: {
                backbone: round(sum(scores := [each.score for each in cells if each.cell.backbone == backbone
                                               and each.cell.objective != UNTRAINED]) / len(scores), 4)
                for backbone in BACKBONES
            }
            for name, cells in parts.items()
        },
        "model": "backbones of 6,500 parameters, 2 layers, 32 wide",
        "calibration": f"{STEPS} updates of {BATCH} rows on {SHARES} % of the signals, seeds {list(SEEDS)}",
        "evaluation": f"softmax regression on frozen features; {', '.join(parts)}",
    }  # fmt: skip
    statements = [
        Statement("state-space, ECG", "attention, ECG"), Statement("state-space, ECG", "convolution, ECG"),
        Statement("cpc, ECG", "jepa, ECG"), Statement("cpc, ECG", "data2vec, ECG"),
        Statement("state-space, all sets", "attention, all sets"),
        Statement("state-space, all sets", "convolution, all sets"),
    ]  # fmt: skip
    return experiment.conclude(statements, facts, found)


if __name__ == "__main__":
    main()
