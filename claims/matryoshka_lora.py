"""One adapter for all ranks, on two toys (`claims/nested_toys.py`). `python -m claims.matryoshka_lora`.

The paper's objective (one pass with the sum of the nested outputs) is served with its weights dropped, as in the paper,
and kept. Controls: LoRA cut to its first components and to its best approximation of each rank (SVD), DyLoRA (a rank
drawn in each step; as in the paper's code, and frozen as in DyLoRA's own), and the loss of every rank ("nested losses",
which takes five passes a step where the others take one). All start alike and see the same batches; the rate is the
same for all and tuned for none. A seed draws the task, the start and the order.

The paper's statements: its adapters are better than DyLoRA's, at the full rank and over all ranks. Ours: the losses of
all ranks, and DyLoRA, reach what the best approximation of the teacher reaches at low ranks, where LoRA cut to its
first component does not. "Teacher" figures are judged by seed: the interval is from the lowest to the highest of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from claims.experiment import Experiment, Statement
from claims.nested_toys import RANKS, Language, Teacher, ways
from featherweight.measure.rank_curve import aurac

CLAIM = (
    "One training with the sum of the nested outputs gives adapters that are good at every rank, better than DyLoRA's"
    " (MatryoshkaLoRA, arXiv 2605.07850)."
)
SEEDS = (0, 1, 2)
SCALINGS = ("none", "sqrt")
Curves = dict[str, list[list[float]]]


def named(name: str, how: str) -> str:
    """A way and how it is served, where there are several."""
    return name if how == "dropped" and name != "paper" else f"{name} {how}"


def teacher(scaling: str, said: Callable[[str], None]) -> Curves:
    """R^2 at each rank by variant, one list a seed; the best that a rank can do among them."""
    curves: Curves = {}
    for seed in SEEDS:
        task = Teacher.drawn(seed)
        curves.setdefault("best", []).append(task.best)
        for name, way in ways(scaling).items():
            for how, found in task.learnt(way, seed).items():
                curves.setdefault(named(name, how), []).append(found)
                said(f"teacher, {scaling}, seed {seed}: {named(name, how):20s} {_shown(found)}")
    return curves


def language(scaling: str, experiment: Experiment) -> Curves:
    """Loss at each rank by variant, one list a seed; the rows' losses at the full rank and over ranks are noted."""
    curves: Curves = {}
    for seed in SEEDS:
        task = Language.drawn(seed)
        for name, way in ways(scaling).items():
            for how, found in task.learnt(way, seed).items():
                variant = named(name, how)
                curves.setdefault(variant, []).append([float(rows.mean()) for rows in found])
                _note(experiment, f"{variant}, {scaling}, full rank", found[-1])
                _note(experiment, f"{variant}, {scaling}, all ranks", torch.stack(found).mean(0))
    return curves


def _note(experiment: Experiment, name: str, rows: torch.Tensor) -> None:
    experiment.losses.setdefault(name, []).append(rows.tolist())
    print(f"{time.monotonic() - experiment.started:5.0f} s  {name:45s} {float(rows.mean()):.4f}", flush=True)


def by_seed(statement: str, differences: Sequence[float]) -> dict[str, Any]:
    """A statement that every seed's difference is below 0."""
    outcome = "holds" if max(differences) < 0 else "contradicted" if min(differences) > 0 else "undecided"
    return {
        "statement": statement,
        "difference": round(statistics.fmean(differences), 4),
        "interval": [round(min(differences), 4), round(max(differences), 4)],
        "outcome": outcome,
        "unit": "R^2",
    }


def judged(curves: Curves) -> list[dict[str, Any]]:
    """What the teacher says of scale 1."""
    areas = {name: [aurac(RANKS, each).linear for each in seeds] for name, seeds in curves.items()}
    low = [index for index, rank in enumerate(RANKS) if rank <= 4]

    def short(name: str) -> list[float]:
        """The largest shortfall at ranks 1, 2 and 4, less the 0.03 that is allowed."""
        pairs = zip(curves["best"], curves[name], strict=True)
        return [max(best[index] - found[index] for index in low) - 0.03 for best, found in pairs]

    def under(first: str, second: str) -> list[float]:
        """How much smaller the area (v1) of `second` is."""
        return [b - a for a, b in zip(areas[first], areas[second], strict=True)]

    return [
        by_seed("teacher: the area of paper dropped is larger than DyLoRA's", under("paper dropped", "DyLoRA")),
        by_seed("teacher: the area of paper kept is larger than DyLoRA's", under("paper kept", "DyLoRA")),
        by_seed("teacher: nested losses are within 0.03 of the best at ranks 1 to 4", short("nested losses")),
        by_seed("teacher: DyLoRA is within 0.03 of the best at ranks 1 to 4", short("DyLoRA")),
        by_seed("teacher: LoRA's first component explains less than 0.2",
                [each[0] - 0.2 for each in curves["LoRA truncated"]]),
        by_seed("teacher: the area of nested losses is larger than paper dropped's",
                under("nested losses", "paper dropped")),
    ]  # fmt: skip


def _summary(curves: Curves, sign: float) -> Mapping[str, Any]:
    """Means over seeds at each rank, and the areas under them."""
    found = {}
    for name, seeds in curves.items():
        means = [statistics.fmean(each) for each in zip(*seeds, strict=True)]
        areas = aurac(RANKS, [sign * value for value in means])
        found[name] = {
            "at ranks": {str(rank): round(value, 4) for rank, value in zip(RANKS, means, strict=True)},
            "aurac": {"v1": round(areas.linear, 4), "v2": round(areas.log, 4), "mean": round(areas.mean, 4)},
        }
    return found


def _shown(values: Sequence[float]) -> str:
    return " ".join(f"{value:6.3f}" for value in values)


def main() -> str:
    torch.set_num_threads(1)
    experiment = Experiment("matryoshka-lora", CLAIM)
    curves = {scaling: language(scaling, experiment) for scaling in SCALINGS}
    fits = {scaling: teacher(scaling, print) for scaling in SCALINGS}
    statements = [
        Statement(f"paper {how}, {scaling}, {where}", f"DyLoRA, {scaling}, {where}")
        for scaling in SCALINGS for how in ("dropped", "kept") for where in ("full rank", "all ranks")
    ] + [Statement("nested losses, none, all ranks", f"{other}, none, all ranks")
         for other in ("LoRA by SVD", "DyLoRA", "paper dropped", "paper kept")]  # fmt: skip
    facts = {
        "model": "a linear layer; a two-block Llama of width 48 that reads Markov languages",
        "calibration": f"fresh samples in every step, seeds {list(SEEDS)}",
        "evaluation": "exact (teacher); 64 held-out rows of 32 tokens (language)",
        "teacher, R^2": {scaling: _summary(found, 1.0) for scaling, found in fits.items()},
        "language, nats per token": {scaling: _summary(found, -1.0) for scaling, found in curves.items()},
        "passes a step": {"nested losses": len(RANKS), "all others": 1},
    }
    return experiment.conclude(statements, facts, judged(fits["none"]))


if __name__ == "__main__":
    main()
