"""Merging by orthogonal deltas against averaging, task arithmetic, TIES and DARE, and taking a task out again.

    python -m claims.orthogonal_deltas

A character model (`claims.character_model`) is fine-tuned on three tasks, of which two are alike (cosine about 0.3) and
one is not, and merged in every way. The scale of each way is chosen among ten on the same validation rows; where
coefficients are fitted one by one, task arithmetic's are too. A seed is another base with its own fine-tunes. Judged on
the mean over the tasks of the loss on held-out rows. Then each task is taken out in turn, by rebuilding and by
subtracting: does its loss return to the base's, and do the others keep theirs? Last, pairs of tasks with different
cosines: what does projecting change where there is little to project?
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import featherweight as fw
from claims.character_model import Toy, nll, trained_toy
from claims.cipher_tasks import Task, folders, tasks
from claims.experiment import SEEDS, Experiment, Statement
from featherweight.core.cosine_words import NO_OP
from featherweight.core.delta_sources import open_deltas
from featherweight.core.gram import measure_grams
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.train.coefficients import fit_coefficients
from featherweight.train.merge_objective import MergeObjective
from featherweight.train.merge_technique import SummingMerge

CLAIM = (
    "Merging orthogonalised changes (MDM-OC, arXiv 2507.20997) does all tasks better than averaging, task arithmetic, "
    "TIES and DARE, and a task can be taken out again: its loss returns to the base's within 5 %, those of the others "
    "change by less than 2 %."
)
MERGED = ("first cipher", "second cipher", "capitals")
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FIT_STEPS, FIT_RATE = 30, 0.05
BACK, KEPT, NOISE = 0.05, 0.02, 0.01  # shares of a loss, and nats
WAYS: dict[str, Callable[[float], tuple[str, dict[str, Any]]]] = {
    "averaging": lambda scale: ("task-arithmetic", {"normalize": True, "lambda_": 1.0}),
    "task arithmetic": lambda scale: ("task-arithmetic", {"lambda_": scale}),
    "TIES": lambda scale: ("ties", {"density": 0.2, "lambda_": 2 * scale}),
    "DARE": lambda scale: ("dare", {"density": 0.5, "lambda_": scale}),
    "orthogonal": lambda scale: ("orthogonal-deltas", {"weight": scale}),
    "orthogonal, whole model": lambda scale: ("orthogonal-deltas", {"weight": scale, "granularity": "model"}),
}


@dataclass
class Bench:
    """What was measured, over the seeds.

    Attributes:
        experiment: mean loss over the tasks of every held-out row.
        back: by mode, relative distance of a removed task's loss from the base's, a list a seed.
        kept: by mode, relative change of the others' losses, a list a seed.
        facts: of each seed.
    """

    experiment: Experiment
    back: dict[str, list[list[float]]] = field(default_factory=dict)
    kept: dict[str, list[list[float]]] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Seed:
    """One base with its tasks and fine-tunes."""

    number: int
    toy: Toy
    tasks: Mapping[str, Task]
    models: Mapping[str, Path]
    folder: Path

    def merged(self, method: str, fields: Mapping[str, Any], names: Sequence[str] = MERGED) -> Model:
        models = [str(self.models[name]) for name in names]
        return build(method, {"models": models, **fields}).apply(self.toy.model, Run(seed=self.number))

    def losses(self, model: Model, names: Sequence[str] = MERGED, part: str = "held_out") -> torch.Tensor:
        """Mean loss of each row of each task, float64 [tasks, rows]."""
        return torch.stack([nll(model, getattr(self.tasks[name], part)) for name in names])

    def tuned(self, way: str) -> tuple[Model, float]:
        """A way at the scale that does best on the validation rows."""
        made = {scale: self.merged(*WAYS[way](scale)) for scale in (SCALES if way != "averaging" else (1.0,))}
        scale = min(made, key=lambda each: float(self.losses(made[each], part="validation").mean()))
        return made[scale], scale

    def fitted(self, method: str, names: Sequence[str] = MERGED) -> tuple[Model, list[float]]:
        """A coefficient a task, fitted by gradient on the same rows from where the best scale is."""
        technique = build(method, {"models": [str(self.models[name]) for name in names]})
        assert isinstance(technique, SummingMerge)
        deltas = open_deltas(technique.models, self.toy.model)
        basis = technique.basis(measure_grams(self.toy.model, deltas))
        objective = MergeObjective(self.toy.model, deltas, basis, [self.tasks[name].tokens() for name in names])
        found = fit_coefficients(objective, "gradient", [0.5] * len(names), FIT_STEPS, FIT_RATE, self.number)
        return self.merged(method, {"weight": found.weights}, names), list(found.weights)


def run_seed(seed: Seed, bench: Bench) -> None:
    facts: dict[str, Any] = {"cosines": _cosines(seed, MERGED), "scales": {}, "weights": {}}
    _note(bench, "base", seed.losses(seed.toy.model))
    own = [nll(open_folder(seed.models[name]), seed.tasks[name].held_out) for name in MERGED]
    _note(bench, "each fine-tune on its task", torch.stack(own))
    for way in WAYS:
        model, facts["scales"][way] = seed.tuned(way)
        _note(bench, way, seed.losses(model))
    for method, names, variant in (
        ("task-arithmetic", MERGED, "task arithmetic, fitted"),
        ("orthogonal-deltas", MERGED, "orthogonal, fitted"),
        ("orthogonal-deltas", MERGED[::-1], "orthogonal, fitted, other order"),
    ):
        model, facts["weights"][variant] = seed.fitted(method, names)
        _note(bench, variant, seed.losses(model))
    _take_out(seed, facts["weights"]["orthogonal, fitted"], bench)
    facts["pairs"] = _pairs(seed)
    bench.facts.append(facts)


def _note(bench: Bench, variant: str, losses: torch.Tensor) -> None:
    bench.experiment.losses.setdefault(variant, []).append(losses.mean(0).tolist())
    print(
        f"{variant:36s} {float(losses.mean()):.4f}  {[round(each, 3) for each in losses.mean(1).tolist()]}", flush=True
    )


def _cosines(seed: Seed, names: Sequence[str]) -> dict[str, float]:
    deltas = open_deltas([seed.models[name] for name in names], seed.toy.model)
    return {
        f"{each.one}, {each.other}": round(each.cosine, 4) for each in measure_grams(seed.toy.model, deltas).pairs()
    }


def _take_out(seed: Seed, weights: Sequence[float], bench: Bench) -> None:
    """Each task in turn, in both ways."""
    base, models = seed.toy.model.folder, [seed.models[name] for name in MERGED]
    whole = fw.merge(base, models, seed.folder / "merged", weight=weights).folder
    at_base, at_merged = (seed.losses(open_folder(each)).mean(1) for each in (base, whole))
    for mode in ("rebuild", "subtract"):
        back, kept = [], []
        for index, name in enumerate(MERGED):
            out = seed.folder / f"{mode}-{index}"
            fw.unmerge(whole, seed.models[name].name, out, mode=mode)
            found = seed.losses(open_folder(out)).mean(1)
            back.append(float(found[index] / at_base[index] - 1))
            kept += [float(found[other] / at_merged[other] - 1) for other in range(len(MERGED)) if other != index]
        bench.back.setdefault(mode, []).append(back)
        bench.kept.setdefault(mode, []).append(kept)
        print(
            f"{mode}: removed {[round(each, 3) for each in back]}, others {[round(each, 3) for each in kept]}",
            flush=True,
        )


def _pairs(seed: Seed) -> list[dict[str, Any]]:
    """Two tasks at a time, weights 0.5: the mean loss with the projection minus that without it."""
    found = []
    for names in (MERGED[:2], MERGED[1:], (MERGED[0], "backwards"), (MERGED[2], "backwards")):
        losses = [
            float(seed.losses(seed.merged(method, {"weight": 0.5}, names), names).mean())
            for method in ("orthogonal-deltas", "task-arithmetic")
        ]
        [cosine] = _cosines(seed, names).values()
        found.append({"tasks": list(names), "cosine": cosine, "difference": round(losses[0] - losses[1], 5)})
        print(found[-1], flush=True)
    return found


def within(values: Sequence[Sequence[float]], most: float, statement: str, unit: str) -> dict[str, Any]:
    """Whether sizes stay within a limit: holds if all do in every seed, contradicted if the largest never does."""
    largest = [max(abs(each) for each in seed) for seed in values]
    outcome = "holds" if max(largest) <= most else "contradicted" if min(largest) > most else "undecided"
    return {
        "statement": statement, "difference": round(sum(largest) / len(largest), 4),
        "interval": [round(min(largest), 4), round(max(largest), 4)], "outcome": outcome, "unit": unit,
    }  # fmt: skip


def judged(bench: Bench) -> list[dict[str, Any]]:
    """Statements on unmerging and on the no-op, with the largest deviation of each seed."""
    share = "share of the loss, largest of the tasks, lowest to highest seed"
    found = []
    for mode in ("rebuild", "subtract"):
        found.append(within(bench.back[mode], BACK, f"{mode}: a removed task's loss is the base's within 5 %", share))
        found.append(within(bench.kept[mode], KEPT, f"{mode}: the others' losses change by less than 2 %", share))
    still = [[each["difference"] for each in facts["pairs"] if abs(each["cosine"]) < NO_OP] for facts in bench.facts]
    nats = "nats, lowest to highest seed that has such a pair"
    said = f"where the cosine is below {NO_OP:g} the projection changes less than {NOISE:g} nats"
    found.append(within([each for each in still if each], NOISE, said, nats))
    return found


def main() -> str:
    torch.set_num_threads(1)  # matrices of 96 columns
    bench = Bench(Experiment("orthogonal-deltas", CLAIM))
    for number in SEEDS:
        with tempfile.TemporaryDirectory() as name:
            folder, every = Path(name), tasks()
            toy = trained_toy(folder / "base", number, steps=300)
            run_seed(Seed(number, toy, every, folders(toy, every, folder, number), folder), bench)
    best = "orthogonal"
    statements = [Statement(best, each) for each in ("averaging", "task arithmetic", "TIES", "DARE")]
    statements += [
        Statement("orthogonal, fitted", "task arithmetic, fitted"),
        Statement("orthogonal, fitted", "orthogonal"),
        Statement("orthogonal, fitted, other order", "orthogonal, fitted", NOISE),
        Statement("orthogonal, fitted", "orthogonal, fitted, other order", NOISE),
    ]
    facts = {
        "model": "a toy of 4 blocks that reads characters, fine-tuned on two ciphers and on capitals",
        "calibration": f"64 validation rows of 48 characters a task, seeds {list(SEEDS)}",
        "evaluation": "64 held-out rows of 48 characters a task",
        "seeds": bench.facts,
        "taken out": {"removed": bench.back, "others": bench.kept},
    }  # fmt: skip
    return bench.experiment.conclude(statements, facts, judged(bench))


if __name__ == "__main__":
    main()
