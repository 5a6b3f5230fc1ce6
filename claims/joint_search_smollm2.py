"""The joint search and its control on SmolLM2's first ten blocks. `python -m claims.joint_search_smollm2`.

The parent is the embedded model's first ten blocks, healed for a while towards the whole model so that its losses mean
something. Under two byte budgets the joint search and its control take as long as each other: the control's rounds are
set once so that it takes no fewer processor seconds. Each hands on its best choice, made by the ordinary slicer,
rounded to nearest and judged on text that no search saw. A seed is another sample of text and another search.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from claims.experiment import SEEDS, Experiment, Statement
from featherweight.core.data import TokenSet, tokenize
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.technique import build
from featherweight.measure.ordering import importance_order
from featherweight.plan.expected import ExpectedCost, Limits
from featherweight.plan.joint_recipe import recipe_of
from featherweight.plan.joint_search import Effort, Outcome, Task, joint_search, sequential_search
from featherweight.train.bilevel import Turns
from featherweight.train.space import Space, space_of

CLAIM = (
    "On a real model, searching architecture and precision together finds better models of the same bytes than "
    "architecture first and precision afterwards, in the same time (arXiv 2606.04063)."
)
BLOCKS, ROWS, SEARCH_LENGTH = 10, 24, 64
FORMATS, REFERENCE = ("int3-g64", "int4-g64", "int8-g64"), "int4-g64"
SHARES = (0.15, 0.35)  # of the way from the smallest choice's bytes to the largest's
EFFORT = Effort(Turns(rounds=4, weight_steps=2, decision_steps=5, batch=2), judged=6)
HEAL: dict[str, Any] = {
    "steps": 40,
    "learning_rate": 1.5e-3,
    "hidden": 0.0,
    "checks": 2,
    "blocks": tuple(range(BLOCKS)),
}


def short(tokens: TokenSet) -> TokenSet:
    """The beginnings of rows."""
    return dataclasses.replace(tokens, ids=tokens.ids[:, :SEARCH_LENGTH])


def timed(search: Callable[[], Outcome]) -> tuple[Outcome, float]:
    """What a search found, and the processor seconds that it took: other work on the machine does not count."""
    started = time.process_time()
    return search(), time.process_time() - started


@dataclass
class Bench:
    """The ten blocks, and what searching them took."""

    experiment: Experiment
    rounds: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    picks: dict[str, list[Any]] = field(default_factory=dict)

    @cached_property
    def parent(self) -> Model:
        whole = self.experiment.model
        blocks = tuple(range(BLOCKS, whole.architecture.blocks))
        run = Run(calibration=short(self.experiment.calibration(0)), parent=whole)
        return build("heal", HEAL).apply(build("depth", {"blocks": blocks}).apply(whole, run), run)

    @cached_property
    def validation(self) -> TokenSet:
        return tokenize(self.experiment.documents["selection"], self.parent.tokenizer, ROWS, SEARCH_LENGTH)

    @cached_property
    def space(self) -> Space:
        return space_of(self.parent, blocks=[7, 8, 9, 10], ffn=[768, 1152, 1344, 1536], groups=[2, 3], formats=FORMATS)

    def task(self, seed: int, share: float) -> tuple[Task, Run]:
        """What is searched under a budget."""
        run = Run(calibration=short(self.experiment.calibration(seed)), seed=seed)
        cost = ExpectedCost(self.parent, self.space, importance_order(self.parent, run), "BF16", "BF16")
        most = {name: options[-1] for name, options in self.space.options.items()}
        least, largest = cost.bytes_of(cost.smallest()), cost.bytes_of(most)
        limits = Limits(least + share * (largest - least))
        return Task(self.parent, cost, limits, run.tokens("the search").ids, self.validation.ids), run

    def control(self, task: Task, run: Run, seconds: float) -> tuple[Outcome, float]:
        """The sequential search with as many rounds as make it take as long as the joint one took the first time."""
        known = self.rounds > 0
        self.rounds = self.rounds or EFFORT.turns.rounds
        found = timed(lambda: self._sequential(task, run))
        if not known and found[1] < seconds:
            self.rounds = math.ceil(self.rounds * seconds / found[1])
            found = timed(lambda: self._sequential(task, run))
        return found

    def _sequential(self, task: Task, run: Run) -> Outcome:
        turns = dataclasses.replace(EFFORT.turns, rounds=self.rounds)
        return sequential_search(task, run, dataclasses.replace(EFFORT, turns=turns), REFERENCE)

    def record(self, name: str, task: Task, run: Run, outcome: Outcome, seconds: float) -> None:
        """Makes the best choice and judges it."""
        best = outcome.found[0]
        child = self.parent
        for step in recipe_of(self.parent, task.space, task.cost.order, best.choice):
            child = step.apply(child, run)
        self.experiment.measure(name, None, [run.seed], parent=child)
        self.seconds.setdefault(name, []).append(round(seconds, 1))
        sizes = {key: each for key, each in best.choice.items() if not key.startswith("format")}
        self.picks.setdefault(name, []).append({"bytes": best.nbytes, "search nll": round(best.nll, 4), **sizes})


def main() -> str:
    experiment = Experiment("joint-search-smollm2", CLAIM)
    bench = Bench(experiment)
    experiment.measure("whole model", None, [0])
    experiment.measure("ten blocks", None, [0], parent=bench.parent)
    for seed in SEEDS:
        for number, share in enumerate(SHARES, start=1):
            task, run = bench.task(seed, share)
            joint, seconds = timed(functools.partial(joint_search, task, run, EFFORT))
            bench.record(f"joint, budget {number}", task, run, joint, seconds)
            bench.record(f"sequential, budget {number}", task, run, *bench.control(task, run, seconds))
            print({name: each[-1] for name, each in bench.seconds.items()}, flush=True)
    statements = [
        Statement(f"joint, budget {number}", f"sequential, budget {number}") for number, _ in enumerate(SHARES, 1)
    ]
    return experiment.conclude(statements, {
        "model": f"the first {BLOCKS} blocks of smollm2-135m, healed for {HEAL['steps']} steps",
        "search": f"{ROWS} rows of {SEARCH_LENGTH} tokens for decisions, {ROWS} others a seed for corrections",
        "processor_seconds": bench.seconds, "rounds": [EFFORT.turns.rounds, bench.rounds],
        "picks": bench.picks, "threads": torch.get_num_threads(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
