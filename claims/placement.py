"""The placement probe (PAGE, DomLoRA): is the module with the strongest first gradient the one to adapt?

A toy that has read prose is adapted to code with one LoRA adapter: on the module that the probe puts first, on each of
five random ones, on all linears. Steps are equal; each variant's learning rate is the best of three on rows of its own.
On SmolLM2-135M, as it is packaged, only the probe runs: is the same module first on questions, sums, code and chat?
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from claims.experiment import SEEDS, Experiment, Statement
from claims.lora_toys import Language
from featherweight.core.adapter_folder import Adapter
from featherweight.core.batch import Batch
from featherweight.core.embedded import plain
from featherweight.core.examples import encode
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.core.samples import Sample
from featherweight.core.source import default_cache
from featherweight.measure.placement import anchored, linears, placement

RANK, STEPS, RANDOM, SAMPLES = 8, 24, 5, 32
SINGLE, EVERYWHERE = (3e-3, 1e-2, 3e-2), (5e-4, 2e-3, 1e-2)
BEST, MEDIAN, ALL = "the probe's module", "the median of five random modules", "all linears"
TASKS = {
    "questions": [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("How many legs does a spider have?", "A spider has eight legs."),
        ("Which planet is closest to the sun?", "Mercury is the planet closest to the sun."),
    ],
    "sums": [
        ("What is 12 + 30?", "12 + 30 = 42."),
        ("What is 7 times 8?", "7 times 8 is 56."),
        ("What is 100 minus 1?", "100 minus 1 is 99."),
    ],
    "code": [
        ("Write a Python function that doubles a number.", "def double(x):\n    return 2 * x"),
        ("Write a loop that prints 0 to 4.", "for i in range(5):\n    print(i)"),
        ("How do I open a file in Python?", "with open('name.txt') as file:\n    text = file.read()"),
    ],
    "chat": [
        ("I feel tired today.", "I am sorry to hear that. Did you sleep well last night?"),
        ("Tell me something nice.", "You have made it through every hard day so far."),
        ("What should I cook tonight?", "A soup of carrots and ginger is quick and warms you."),
    ],
}  # fmt: skip


def main() -> None:
    """Measures, prints, and writes results/placement.json."""
    experiment = Experiment(
        "placement", "A single LoRA adapter on the module with the strongest first gradient learns better than one "
        "elsewhere, and with 0.7 % of the parameters better than adapters on all linears."
    )  # fmt: skip
    notes: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for seed in SEEDS:
            notes.append(compare(experiment, Language(Path(folder), seed, blocks=4)))
    experiment.conclude(
        [Statement(BEST, MEDIAN), Statement(BEST, ALL), Statement(BEST, "base")],
        {
            "model": "Llama of width 64 and 4 blocks, trained on prose and adapted to code; SmolLM2-135M for the probe",
            "calibration": f"{SAMPLES} rows of 64 tokens for the probe, {STEPS} steps of 8 rows for the adapters",
            "evaluation": "24 held-out rows of 64 tokens of code",
            "toy": notes,
            "smollm2": (stable := probe_smollm(experiment)),
        },
        same_on_every_task(stable),
    )


def compare(experiment: Experiment, language: Language) -> dict[str, Any]:
    """Trains every variant of one seed and records its losses."""
    module = language.model.module()
    ids = language.rows["calibration"][:SAMPLES]
    zeros = torch.zeros_like(ids)
    batch = Batch(ids, ids, torch.arange(ids.shape[1]).expand_as(ids).contiguous(), zeros)
    found = placement(module, batch, "expected", rank=RANK, alpha=RANK)
    names = linears(module)
    order = torch.randperm(len(names), generator=Run(seed=language.seed).generator("random modules")).tolist()
    drawn = [names[index] for index in order[:RANDOM]]
    tuned = {name: best_rate(language, anchored(name), SINGLE) for name in {found.best, *drawn}}
    losses = {name: language.losses(adapter) for name, (adapter, _) in tuned.items()}
    ranked = sorted(drawn, key=lambda name: sum(losses[name]))
    everywhere, rate = best_rate(language, "all-linear", EVERYWHERE)
    record(experiment, {
        "base": language.losses(None), BEST: losses[found.best], MEDIAN: losses[ranked[RANDOM // 2]],
        "the best of five random modules": losses[ranked[0]], ALL: language.losses(everywhere),
    })  # fmt: skip
    return {
        "probe": found.best, "share": round(found.share(found.best), 4), "random": ranked,
        "rates": {"single": tuned[found.best][1], "all": rate},
        "parameters": [tuned[found.best][0].parameters, everywhere.parameters],
    }  # fmt: skip


def record(experiment: Experiment, losses: dict[str, list[float]]) -> None:
    for name, rows in losses.items():
        experiment.losses.setdefault(name, []).append(rows)
        print(f"{name:40s} {sum(rows) / len(rows):.4f}", flush=True)


def best_rate(language: Language, targets: str, rates: tuple[float, ...]) -> tuple[Adapter, float]:
    """The adapter of the learning rate that does best on the rows to choose on, and that rate."""
    tried = {rate: language.trained(targets, RANK, rate, STEPS, targets) for rate in rates}
    best = min(tried, key=lambda rate: sum(language.losses(tried[rate], "selection")))
    return tried[best], best


def probe_smollm(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The first module of SmolLM2 and its share, by task and score."""
    model = experiment.model  # for its tokenizer: its channels are equalised, and the score sees such a change
    module = plain(default_cache()).module()
    found: dict[str, dict[str, Any]] = {}
    for task, pairs in TASKS.items():
        samples = [Sample(task, prompt=question, text=answer) for question, answer in pairs]
        rows = PackedRows(encode(samples, model.tokenizer, 64).examples, 64, share=False)
        for score in ("fisher", "projected"):
            each = placement(module, rows.batch(range(len(rows))), score, rank=16, alpha=16)
            found.setdefault(score, {})[task] = [each.best, round(each.share(each.best), 4)]
            print(f"{score:10s} {task:10s} {each.best} {each.share(each.best):.1%}", flush=True)
    return found


def same_on_every_task(stable: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether one module is first on every task, and whether the first one is a down projection as the paper found."""
    firsts = [module for module, _ in stable["fisher"].values()]
    others = sum(module != max(set(firsts), key=firsts.count) for module in firsts)
    elsewhere = sum(not module.endswith("down_proj") for module in firsts)
    return [
        counted("one module of SmolLM2-135M is first on all four tasks (fisher)", others),
        counted("the first module of SmolLM2-135M is a down projection on all four tasks (fisher)", elsewhere),
    ]


def counted(statement: str, against: int) -> dict[str, Any]:
    """A statement that holds when no task speaks against it."""
    return {
        "statement": statement, "difference": against, "interval": [against, against],
        "outcome": "contradicted" if against else "holds", "unit": "tasks against it",
    }  # fmt: skip


if __name__ == "__main__":
    main()
