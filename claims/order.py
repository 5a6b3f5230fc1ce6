"""Does pruning last pay more, the more it damages? Sparsity by bits on SmolLM2 and two toys. `python -m claims.order`.

The paper's claim is a trend: A(Q→P), what is won by rounding first and pruning last, rises with C*_P − C_Q, the
difference of the two intensities on the bit-width scale. Here it is Spearman's rho over the cells of a grid, one a
model and pair of methods, with an interval from resampling cells. The sign of A, which the paper does not claim, is
reported by itself: how often the rule "weaker first" picks the better order, and how often the order that was better on
one half of the evaluation rows is the better one on the other half, which is what `plan --explain-order` relies on.
Of SmolLM2 only the first ten blocks are compressed. Pruners score the weights as they find them, rounded or not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from claims.experiment import Experiment, reordered, row_losses
from claims.toys import toy
from featherweight.core.architecture import block_index
from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.technique import build
from featherweight.plan.curve import Curve
from featherweight.plan.order import order_steps

CLAIM = (
    "What is won by rounding first rises with how much stronger the pruning is than the rounding (arXiv 2603.18426)."
)
SEEDS = (0, 1)
SPARSITIES, BITS, WIDTHS = (0.3, 0.5, 0.7), (4, 3, 2), (8, 5, 4, 3, 2)
CALIBRATION_ROWS, EVALUATION_ROWS, LENGTH = 6, 8, 64
FIRST_BLOCKS = 10
_RESAMPLES = 2000


@dataclass
class Subject:
    """A model, of which the first blocks are compressed, with its text.

    Attributes:
        name: for people.
        model: all of it.
        documents: the splits of its text.
        blocks: how many blocks are compressed.
    """

    name: str
    model: Model
    documents: Mapping[str, Mapping[str, Sequence[str]]]
    blocks: int
    _losses: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    _single: dict[tuple[str, int], Model] = field(default_factory=dict)

    @cached_property
    def part(self) -> Model:
        """The model of the first blocks alone."""
        rest = tuple(range(self.blocks, self.model.architecture.blocks))
        return build("depth", {"blocks": rest}).apply(self.model, Run()) if rest else self.model

    @cached_property
    def evaluation(self) -> TokenSet:
        return tokenize(self.documents["held-out"], self.model.tokenizer, EVALUATION_ROWS, LENGTH)

    def calibration(self, seed: int) -> TokenSet:
        """A sample of the calibration text."""
        documents = {domain: reordered(texts, seed) for domain, texts in self.documents["calibration"].items()}
        return tokenize(documents, self.model.tokenizer, CALIBRATION_ROWS, 2 * LENGTH)

    def losses(self, recipe: Recipe, seed: int) -> torch.Tensor:
        """Of every evaluation row, float64 [rows]."""
        key = (recipe.digest, seed if any(step.needs for step in recipe) else 0)
        if key not in self._losses:
            self._losses[key] = row_losses(self._whole(self._applied(recipe, seed)), self.evaluation.ids)
        return self._losses[key]

    def _applied(self, recipe: Recipe, seed: int) -> Model:
        if not len(recipe):
            return self.part
        first = Recipe(recipe.steps[:1])
        run = Run(calibration=self.calibration(seed), seed=seed)
        if (first.digest, seed) not in self._single:
            self._single[first.digest, seed] = recipe.steps[0].apply(self.part, run)
        model = self._single[first.digest, seed]
        for step in recipe.steps[1:]:
            model = step.apply(model, run)
        return model

    def _whole(self, part: Model) -> Model:
        blocks = {name: entry for name, entry in part.entries.items() if block_index(name) is not None}
        return self.model.with_changes(blocks)


@dataclass(frozen=True)
class Cell:
    """One sparsity and number of bits; what is won is in nats a token.

    Attributes:
        stronger: C*_P − C_Q.
        won: A(Q→P) on all rows; `won_here` and `won_there` on the rows that decide and on the others.
    """

    sparsity: float
    bits: int
    stronger: float
    won: float
    won_here: float
    won_there: float


def cells(subject: Subject, pruner: str, rounding: str, seed: int) -> list[Cell]:
    """The grid of one seed."""

    def measure(recipe: Recipe) -> float:
        return float(subject.losses(recipe, seed).mean())

    parent = measure(Recipe(()))
    curve = Curve.measured(subject.part, parent, measure, WIDTHS)
    found = []
    for sparsity in SPARSITIES:
        for bits in BITS:
            prune, quantize = build(pruner, {"sparsity": sparsity}), build(rounding, {"format": f"int{bits}-g64"})
            known = order_steps(Recipe((prune, quantize)), parent, measure, curve)
            won = subject.losses(Recipe((prune, quantize)), seed) - subject.losses(Recipe((quantize, prune)), seed)
            found.append(Cell(
                sparsity, bits, round(known.ratios[0] - known.ratios[1], 4), round(float(won.mean()), 5),
                round(float(won[::2].mean()), 5), round(float(won[1::2].mean()), 5),
            ))  # fmt: skip
    return found


def rho(found: Sequence[Cell]) -> float:
    """Spearman's rank correlation of what is won with how much stronger the pruning is; 0 where one is constant."""
    stronger, won = [each.stronger for each in found], [each.won for each in found]
    if min(len(set(stronger)), len(set(won))) < 2:
        return 0.0
    return float(spearmanr(stronger, won).statistic)


def judged(name: str, grids: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """The trend of one model and pair of methods, as a statement."""
    generator = torch.Generator().manual_seed(0)
    count = len(grids[0])
    picks = torch.randint(count, (_RESAMPLES, count), generator=generator).tolist()
    drawn = torch.tensor([sum(rho([grid[at] for at in pick]) for grid in grids) / len(grids) for pick in picks])
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return {
        "statement": f"{name}: A(Q→P) rises with C*_P − C_Q",
        "difference": round(sum(map(rho, grids)) / len(grids), 3),
        "interval": [round(low, 3), round(high, 3)],
        "outcome": "holds" if low > 0 else "contradicted" if high < 0 else "undecided",
        "unit": "Spearman's rho",
    }


def signs(grids: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    """How often something picks the order that is the better one, over all cells and seeds; ties count for it."""
    every = [each for grid in grids for each in grid]
    mild = [each for each in every if each.bits > 2]

    def rate(right: Sequence[bool]) -> float:
        return round(sum(right) / len(right), 3)

    return {
        "rounding first is better": rate([each.won > 0 for each in every]),
        "pruning first is better": rate([each.won < 0 for each in every]),
        "the rule is right": rate([each.won * each.stronger >= 0 for each in every]),
        "measuring on other rows is right": rate([each.won_here * each.won_there >= 0 for each in every]),
        "always pruning first is right": rate([each.won <= 0 for each in every]),
        "rho of each seed": [round(rho(grid), 3) for grid in grids],
        "rho without 2 bits": [round(rho([each for each in grid if each.bits > 2]), 3) for grid in grids],
        "the rule is right without 2 bits": rate([each.won * each.stronger >= 0 for each in mild]),
    }


def main() -> str:
    experiment = Experiment("order", CLAIM)
    text = split_documents(default_documents())
    statements, facts = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for subject, pairs in _subjects(experiment, text, Path(folder)):
            for pruner, rounding in pairs:
                grids = [cells(subject, pruner, rounding, seed) for seed in SEEDS]
                name = f"{subject.name}, {pruner} and {rounding}"
                statements.append(judged(name, grids))
                facts[name] = {**signs(grids), "cells": [[each.__dict__ for each in grid] for grid in grids]}
                print(statements[-1], signs(grids), flush=True)
    return experiment.conclude([], {
        "model": f"smollm2-135m (its first {FIRST_BLOCKS} blocks) and two toys of width 64", "pairs": facts,
        "calibration": f"{CALIBRATION_ROWS} rows of {2 * LENGTH} tokens, seeds {list(SEEDS)}",
        "evaluation": f"{EVALUATION_ROWS} held-out rows of {LENGTH} tokens",
    }, statements)  # fmt: skip


Pairs = Sequence[tuple[str, str]]


def _subjects(experiment: Experiment, text: Any, folder: Path) -> Any:
    """The models with the pairs of methods that are tried on them."""
    both: Pairs = (("wanda", "rtn"), ("sparsegpt", "gptq"))
    for name, seed, blocks in (("prose", 0, 3), ("code", 1, 2)):
        documents = {split: {name: text[split][name]} for split in text}
        made = toy(folder, documents["calibration"], 64, 300, seed, blocks)
        yield Subject(f"toy of {name}", made, documents, blocks), both
    yield Subject("smollm2", experiment.model, text, FIRST_BLOCKS), (("wanda", "rtn"),)


if __name__ == "__main__":
    main()
