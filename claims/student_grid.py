"""Skeletons of a language model at equal bytes, and what they recover from. `python -m claims.student_grid`.

A small Llama of four blocks learns prose and code of every Python; then it is cut to 80 % of its parameters by depth,
by width and by low rank, and each skeleton recovers for 60 updates of 4 rows of 64 tokens from the text
(cross-entropy), from its parent's logits (KL), from its hidden states, or by contrast of hidden states (CPC), on 16 or
256 rows. Every skeleton with every objective and amount gets three learning rates, chosen on rows that do not judge.
Scores are parent perplexity / student perplexity on held-out text of each domain, read by the parent's head. A seed is
which rows and their order. Losses are 1 - score.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from claims.experiment import SEEDS, Statement
from claims.grid_statements import Errors, fit_of, plain, stated
from claims.toys import toy
from featherweight.core.data import default_documents, split_documents
from featherweight.core.run import Run
from featherweight.plan.attribution import BACKBONE, OBJECTIVE, ROWS
from featherweight.plan.findings import findings
from featherweight.plan.grid import Grid, run_grid
from featherweight.plan.skeletons import NAMES, skeletons
from featherweight.plan.student_cells import StudentCells
from featherweight.train.cells import UNTRAINED
from featherweight.train.head import Fitting
from featherweight.train.recovery import RECOVERIES, build_recoveries
from featherweight.verbs.grid_text import text_rows

CLAIM = (
    "Which skeleton of a model recovers, and from what, matters more than on how much text; the parent's logits teach "
    "more than the text does (after arXiv 2605.12241, whose grid is of electrocardiograms)."
)
AMOUNTS, RATES, STEPS, LEARNT = (16, 256), (3e-4, 1e-3, 3e-3), 60, 1200


def main() -> str:
    torch.set_num_threads(1)
    experiment = Errors("student_grid", CLAIM, "1 - perplexity ratio")
    with TemporaryDirectory() as folder:
        parent = toy(Path(folder), split_documents(default_documents())["calibration"], 96, LEARNT, blocks=4)
        text = text_rows(None, parent.tokenizer, max(AMOUNTS), 32, 64)
        made = skeletons(parent, NAMES, 0.8, Run(calibration=text["calibration"]))
        for name, each in made.items():
            print(f"{name}: {each.how}, {each.parameters / parent.parameters:.1%} of the parameters", flush=True)
        known = build_recoveries(tuple(RECOVERIES), {})
        domain = StudentCells(parent, made, known, text, Fitting(STEPS, 1e-3, 0.0, 4))
        outcomes = run_grid(Grid(NAMES, tuple(known), AMOUNTS, len(SEEDS), RATES), domain, Run())
    experiment.note(outcomes)
    for objective in known:
        those = [each for each in outcomes if each.cell.objective == objective]
        rows = [[1 - each.score for each in those if each.cell.seed == seed] for seed in SEEDS]
        experiment.losses[objective] = rows
    fit, share = fit_of(outcomes), "share of variance"
    found = [
        stated("the skeleton explains more than the amount of text", fit.lead(BACKBONE, ROWS), share),
        stated("the objective explains more than the amount of text", fit.lead(OBJECTIVE, ROWS), share),
    ]
    trained = [each for each in outcomes if each.cell.objective != UNTRAINED]
    facts = {
        "grid": plain(findings(outcomes)),
        "best_rate_is_the_last": f"{sum(each.edge for each in trained)} of {len(trained)} cells",
        "skeletons": {name: [each.how, each.parameters] for name, each in made.items()},
        "model": f"Llama, 4 blocks, 96 wide, {LEARNT} updates",
        "calibration": f"{STEPS} updates of 4 rows of 64 tokens, of {AMOUNTS} rows, rates {RATES}, seeds {list(SEEDS)}",
        "evaluation": "32 held-out rows of 64 tokens",
    }
    statements = [
        Statement("logit-kl", "next-token"), Statement("logit-kl", "hidden-states"), Statement("logit-kl", "cpc"),
        Statement("width", "depth"), Statement("low-rank", "depth"),
    ]  # fmt: skip
    return experiment.conclude(statements, facts, found)


if __name__ == "__main__":
    main()
