"""One adapter for all ranks on SmolLM2-135M: held-out loss at every power-of-two rank, by how the adapter was trained.

    python benchmarks/rank_curve.py
    python benchmarks/rank_curve.py --steps 1 --seeds 1 --rows 2     # a dry run, whose result is not kept

The base model, frozen, learns the style of numpy's docstrings; other docstrings judge. Compared: LoRA cut afterwards to
its best approximation of each rank (singular values), DyLoRA (a rank drawn in each step), the paper's sum of outputs
(arXiv 2605.07850) served with its weights dropped and kept, and the loss of every rank. The last takes a pass per rank
in every step, so it is also measured with as many passes as the others have steps. All have scale 1 and PEFT's start
and see the same rows in the same order at the same rate, tuned for none. A seed draws the start, the order and DyLoRA's
ranks. AURAC is the area under the negated loss: v1 over the ranks, v2 over their logarithms.

The training is short, so that all of it takes about eleven minutes on two quiet cores (190 tokens a second trained, 450
judged): a comparison at equal effort, not what each could reach.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bench import numpy_docstrings, save
from rich.console import Console
from rich.table import Table

from featherweight.core.batch import Batch
from featherweight.core.data import TokenSet, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.measure.rank_curve import RankCurve, rank_curve
from featherweight.techniques.adapt.matryoshka_lora import MatryoshkaLora

RANK, LENGTH, BATCH, RATE = 16, 96, 1, 2e-3
RANKS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Way:
    """One training.

    Attributes:
        fields: of the technique.
        served: how it is measured: "dropped", "kept" or "svd".
        share: of the steps that it takes.
    """

    fields: Mapping[str, Any]
    served: tuple[str, ...] = ("dropped",)
    share: float = 1.0


WAYS = {
    "LoRA": Way({"ranks": (RANK,)}, ("svd",)),  # one rank, scale 1: LoRA with alpha = rank
    "DyLoRA": Way({"objective": "sampled"}),
    "paper": Way({"objective": "sum_of_outputs"}, ("dropped", "kept")),
    "nested losses": Way({}),
    "nested losses, same passes": Way({}, share=1 / len(RANKS)),
}
SHOWN = {"svd": ", truncated by SVD", "dropped": "", "kept": ", weights kept"}


def data(model: Model, steps: int, rows: int) -> tuple[TokenSet, list[Batch]]:
    """Docstrings to learn from, and batches of others to judge on."""
    splits = split_documents({"docstrings": numpy_docstrings()})
    learnt = tokenize(splits["calibration"], model.tokenizer, max(2, BATCH * steps), LENGTH)
    ids = tokenize(splits["held-out"], model.tokenizer, rows, LENGTH).ids
    positions = torch.arange(LENGTH)
    return learnt, [Batch(each, each, positions.expand_as(each), torch.zeros_like(each)) for each in ids.split(8)]


def measured(model: Model, way: Way, steps: int, run: Run, held_out: Sequence[Batch]) -> dict[str, Any]:
    """Trains once; the curve of each way of serving, and the seconds of a step."""
    taken = max(1, round(steps * way.share))
    technique = MatryoshkaLora(rank=RANK, steps=taken, batch=BATCH, length=LENGTH, learning_rate=RATE, **way.fields)
    adapted, rows = technique.attach(model, run), technique.rows(model, run)
    started = time.perf_counter()
    technique.train(adapted, rows, run)
    seconds = (time.perf_counter() - started) / taken
    curves = {}
    for how in way.served:
        adapted.peft_config["default"].serve = "keep_weight" if how == "kept" else "drop_weight"
        curves[how] = rank_curve(adapted, held_out, RANKS, cut=how == "svd")
    return {"curves": curves, "seconds": seconds, "steps": taken}


def row(name: str, how: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the result file says of a variant: means over seeds, their range, and the areas."""
    curves: list[RankCurve] = [each["curves"][how] for each in runs]
    losses = [statistics.fmean(each) for each in zip(*(curve.losses for curve in curves), strict=True)]
    areas = [curve.aurac for curve in curves]
    return {
        "variant": name + SHOWN[how],
        "steps": runs[0]["steps"],
        "seconds_a_step": round(statistics.fmean(each["seconds"] for each in runs), 3),
        "nll": {str(rank): round(loss, 4) for rank, loss in zip(RANKS, losses, strict=True)},
        "by_seed": [[round(loss, 4) for loss in curve.losses] for curve in curves],
        "aurac": {
            "v1": round(statistics.fmean(each.linear for each in areas), 4),
            "v2": round(statistics.fmean(each.log for each in areas), 4),
            "mean": round(statistics.fmean(each.mean for each in areas), 4),
            "v2 by seed": [round(each.log, 4) for each in areas],
        },
    }


def show(rows: Sequence[Mapping[str, Any]], base: float) -> None:
    table = Table("trained as", *(f"r={rank}" for rank in RANKS), "AURAC v1", "v2", "s/step")
    for each in rows:
        values = (f"{each['nll'][str(rank)]:.3f}" for rank in RANKS)
        areas = (f"{each['aurac'][key]:.3f}" for key in ("v1", "v2"))
        table.add_row(each["variant"], *values, *areas, f"{each['seconds_a_step']:.2f}")
    Console(width=120).print(table, f"without an adapter: {base:.3f} nats per token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8, help="held-out rows")
    options = parser.parse_args()
    model = open_model("smollm2-135m")
    learnt, held_out = data(model, options.steps, options.rows)
    started, rows, base = time.perf_counter(), [], 0.0
    for name, way in WAYS.items():
        runs = []
        for seed in range(options.seeds):
            runs.append(measured(model, way, options.steps, Run(learnt, seed=seed), held_out))
            print(f"{time.perf_counter() - started:5.0f} s  {name}, seed {seed}", flush=True)
        rows += [row(name, how, runs) for how in way.served]
        base = next(iter(runs[0]["curves"].values())).base
    show(rows, base)
    facts = {
        "model": "smollm2-135m", "rank": RANK, "batch": BATCH, "length": LENGTH, "learning_rate": RATE,
        "seeds": options.seeds, "held_out_rows": options.rows, "base_nll": round(base, 4),
        "seconds": round(time.perf_counter() - started), "rows": rows,
    }  # fmt: skip
    if options == parser.parse_args([]):
        print(save("rank_curve", "python benchmarks/rank_curve.py", facts))


if __name__ == "__main__":
    main()
