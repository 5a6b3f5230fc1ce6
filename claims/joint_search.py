"""Sizes and formats searched together against sizes first and formats afterwards. `python -m claims.joint_search`.

A four-block Llama of characters, 81 choices: 3 depths x 3 FFN widths x {2, 4, 8} bits for attention x {2, 4, 8} bits
for the feed-forward parts. Every choice is made by the ordinary slicer and quantizer and judged on held-out text, so
the best choice under every byte budget is known. A seed is another model and another search. Compared with the joint
search, whose recipes are `subnet` and `rtn`:

- the exhaustive optimum, and the exhaustive "best sizes at 4 bits' bytes, unrounded, then best formats";
- the same search in two stages in equal steps, and as many random choices within the budget, judged in the same way.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from claims.character_model import LENGTH, Toy, nll, trained_toy
from claims.experiment import RESULTS, verdict_of
from featherweight.core.run import Run
from featherweight.measure.ordering import importance_order
from featherweight.plan.expected import ExpectedCost, Limits
from featherweight.plan.frontier import hypervolume
from featherweight.plan.joint_recipe import recipe_of
from featherweight.plan.joint_search import Effort, Task, joint_search, sequential_search
from featherweight.train.bilevel import Turns
from featherweight.train.space import FORMAT, Choice, Space, space_of

CLAIM = (
    "Searching architecture and precision together finds better models than choosing the architecture first and the "
    "precision afterwards (arXiv 2606.04063)."
)
SEEDS = (3, 4, 5)  # the search was made on others
FORMATS = ("int2-g32", "int4-g32", "int8-g32")
SHARES = (0.1, 0.25, 0.45, 0.7)  # of the way from the smallest choice's bytes to the largest's
EFFORT = Effort(Turns(rounds=7, weight_steps=2, decision_steps=8, batch=8), judged=8)
WITHIN = 0.02
Key = tuple[tuple[str, Any], ...]


def key(choice: Choice) -> Key:
    return tuple(sorted(choice.items()))


@dataclass
class World:
    """One seed's model with the truth about all of its choices."""

    toy: Toy
    run: Run
    space: Space
    cost: ExpectedCost
    truth: dict[Key, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, seed: int) -> World:
        toy = trained_toy(folder / str(seed), seed)
        run = Run(toy.calibration, seed=seed)
        space = space_of(toy.model, blocks=[2, 3, 4], ffn=[128, 192, 256], formats=FORMATS, precision="part")
        return cls(toy, run, space, ExpectedCost(toy.model, space, importance_order(toy.model, run), "BF16", "BF16"))

    def make(self, choice: Choice) -> float:
        """Held-out NLL of a choice that is really made."""
        model = self.toy.model
        for step in recipe_of(model, self.space, self.cost.order, choice):
            model = step.apply(model, self.run)
        return float(nll(model, self.toy.held_out).mean())

    def explore(self) -> None:
        """Makes and judges every choice."""
        for choice in self.space.choices():
            self.truth[key(choice)] = (self.cost.bytes_of(choice), self.make(choice))

    def within(self, limit: float) -> dict[Key, tuple[int, float]]:
        return {each: facts for each, facts in self.truth.items() if facts[0] <= limit}

    def limits(self) -> list[float]:
        sizes = [size for size, _ in self.truth.values()]
        return [min(sizes) + share * (max(sizes) - min(sizes)) for share in SHARES]

    def task(self, limit: float) -> Task:
        return Task(self.toy.model, self.cost, Limits(limit), self.toy.training, self.toy.validation)


def best(truth: Mapping[Key, tuple[int, float]]) -> Key:
    return min(truth, key=lambda each: truth[each][1])


def exhaustive_sequential(world: World, limit: float) -> Key:
    """The best unrounded sizes among those that fit with 4 bits everywhere, then their best formats that fit."""
    model = world.toy.model
    bare = Space({name: each for name, each in world.space.options.items() if not name.startswith(FORMAT)}, {})
    fitting = []
    for sizes in bare.choices():
        at_four = {**sizes, **dict.fromkeys(set(world.space.formats.values()), FORMATS[1])}
        if world.cost.bytes_of(at_four) <= limit:
            fitting.append(sizes)
    sizes_of = fitting or [{name: world.cost.smallest()[name] for name in bare.options}]
    made = {}
    for sizes in sizes_of:
        [step] = recipe_of(model, bare, world.cost.order, sizes)
        made[key(sizes)] = float(nll(step.apply(model, world.run), world.toy.held_out).mean())
    chosen = dict(min(made, key=lambda each: made[each]))
    allowed = {each: facts for each, facts in world.within(limit).items() if chosen.items() <= dict(each).items()}
    return best(allowed)


def random_choices(world: World, limit: float) -> Key:
    """The best on the validation rows of as many random choices as the search judges."""
    allowed = sorted(world.within(limit))
    picks = torch.randperm(len(allowed), generator=world.run.generator(f"random {limit}"))[: EFFORT.judged]
    judged = {}
    for index in picks.tolist():
        model = world.toy.model
        for step in recipe_of(model, world.space, world.cost.order, dict(allowed[index])):
            model = step.apply(model, world.run)
        judged[allowed[index]] = float(nll(model, world.toy.validation).mean())
    return min(judged, key=lambda each: judged[each])


def picks_of(world: World) -> dict[str, list[Key]]:
    """What each method picks at each budget."""
    found: dict[str, list[Key]] = {}
    for limit in world.limits():
        task = world.task(limit)
        picks = {
            "optimum": best(world.within(limit)),
            "joint": key(joint_search(task, world.run, EFFORT).found[0].choice),
            "sequential, equal steps": key(sequential_search(task, world.run, EFFORT, FORMATS[1]).found[0].choice),
            "sequential, exhaustive": exhaustive_sequential(world, limit),
            "random": random_choices(world, limit),
        }
        for method, pick in picks.items():
            found.setdefault(method, []).append(pick)
    return found


def regrets(world: World, picks: Mapping[str, Sequence[Key]]) -> dict[str, list[float]]:
    """How much worse than the optimum each pick is, nats a character."""
    optimum = [world.truth[each][1] for each in picks["optimum"]]
    return {
        method: [world.truth[pick][1] - least for pick, least in zip(each, optimum, strict=True)]
        for method, each in picks.items()
    }


def areas(world: World, picks: Mapping[str, Sequence[Key]]) -> dict[str, float]:
    """Hypervolume of each method's picks, as a share of the optima's."""
    reference = (max(size for size, _ in world.truth.values()) * 1.01, max(loss for _, loss in world.truth.values()))
    found = {method: hypervolume([world.truth[pick] for pick in each], reference) for method, each in picks.items()}
    return {method: area / found["optimum"] for method, area in found.items()}


def statement(text: str, by_seed: Sequence[float], limit: float) -> dict[str, Any]:
    """Holds where every seed stays within a limit, contradicted where none does; the interval is lowest to highest."""
    kept = [value <= limit + 1e-9 for value in by_seed]
    return {
        "statement": text,
        "difference": round(sum(by_seed) / len(by_seed), 4),
        "interval": [round(min(by_seed), 4), round(max(by_seed), 4)],
        "outcome": "holds" if all(kept) else "undecided" if any(kept) else "contradicted",
    }


def statements(regret: Sequence[Mapping[str, Any]], area: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    found = [
        statement(
            f"joint picks within {WITHIN} nats of the optimum, budget {index + 1}",
            [each["joint"][index] for each in regret], WITHIN,
        )
        for index in range(len(SHARES))
    ]  # fmt: skip
    for other in ("sequential, exhaustive", "sequential, equal steps", "random"):
        found.append(
            statement(
                f"hypervolume of joint at least that of {other}", [each[other] - each["joint"] for each in area], 0.0
            )
        )
    return found


def losses(world: World, picks: Mapping[str, Sequence[Key]]) -> dict[str, float]:
    """Mean held-out NLL of each method's picks over the budgets."""
    return {method: sum(world.truth[pick][1] for pick in each) / len(each) for method, each in picks.items()}


def one_seed(seed: int) -> dict[str, Any]:
    """Trains a model, makes all its choices, lets every method pick, and compares."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = World.of(Path(folder), seed)
        world.explore()
        picks = picks_of(world)
        parent = float(nll(world.toy.model, world.toy.held_out).mean())
    regret, area = regrets(world, picks), areas(world, picks)
    print(f"seed {seed}, parent {parent:.3f}, {time.process_time():.0f} processor seconds")
    for method, each in regret.items():
        shown = " ".join(f"{value:.3f}" for value in each)
        print(f"    {method:26s} worse than the optimum by {shown}; area {area[method]:.4f}", flush=True)
    return {"regret": regret, "area": area, "nll": losses(world, picks), "parent": parent}


def main() -> str:
    started = time.monotonic()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:  # a seed a core
        found = list(pool.map(one_seed, SEEDS))
    compared = statements([each["regret"] for each in found], [each["area"] for each in found])
    verdict = verdict_of([each["outcome"] for each in compared])
    for each in compared:
        print(f"{each['outcome']:12s} {each['difference']:+.4f} {each['interval']}  {each['statement']}")
    print(f"{verdict}, {time.monotonic() - started:.0f} s")
    methods = list(found[0]["regret"])
    record = {
        "claim": CLAIM,
        "verdict": verdict,
        "statements": compared,
        "nll": {
            "parent": [round(each["parent"], 4) for each in found],
            **{method: [round(each["nll"][method], 4) for each in found] for method in methods},
        },
        "worse_than_optimum": {
            method: [[round(value, 4) for value in each["regret"][method]] for each in found] for method in methods
        },
        "area": {method: [round(each["area"][method], 4) for each in found] for method in methods},
        "model": "a four-block Llama of characters that the script trains",
        "calibration": f"81 choices, 4 byte budgets at {list(SHARES)} of the way from the smallest to the largest, "
        f"seeds {list(SEEDS)}",
        "evaluation": f"64 held-out rows of {LENGTH} characters, every choice; NLL is the mean over the budgets",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "subnet.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return verdict


if __name__ == "__main__":
    main()
