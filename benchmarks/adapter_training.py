"""LoRA training by us and by PEFT with transformers' Trainer: peak memory, time a step, and the losses.

    python benchmarks/adapter_training.py

SmolLM2-135M as its package has it (Q4_1), rank 16 on all linears, rows of 512 tokens of which 30 % are trained on, one
row a step. The peers read the same values as a float32 folder. Four ways, each in processes of its own and in turns:
PEFT, PEFT with gradient checkpointing, ours, and ours under a memory limit of what the first two must not be beaten by
(0.35 and 0.6 of their peaks, the lower of the two). All start from the same adapter and see the rows in the same order.
Peak memory is the resident set of the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bench import in_fresh_process, save
from rich.console import Console
from rich.table import Table

from featherweight.core import embedded
from featherweight.core.budget import format_bytes
from featherweight.core.data import default_documents, tokenize
from featherweight.core.run import Run
from featherweight.core.source import default_cache
from featherweight.train.loop import shuffled

LENGTH, TRAINED = 512, 0.3
PLAIN, CHECKPOINTED, OURS, LIMITED = "peft", "peft-checkpointed", "featherweight", "featherweight-limited"
OF_PLAIN, OF_CHECKPOINTED, SLOWER, FASTER = 0.35, 0.6, 1.35, 0.9
NOISE = 1e-4  # nats: what float32 logsumexp over 49,152 logits, and its effect on a few updates, comes to

Runs = dict[str, list[dict[str, Any]]]


def write_data(folder: Path, steps: int) -> int:
    """Model folder and rows for the peers, rows for us; the seed that makes PEFT's adapter ours."""
    model, run = embedded.plain(default_cache()), Run(seed=0)
    model.save(folder / "model")
    ids = tokenize({"prose": default_documents()["prose"]}, model.tokenizer, steps, LENGTH, "rows").ids
    labels = ids.clone()
    labels[:, : -round(TRAINED * LENGTH)] = -100
    order = shuffled(steps, 1, run.generator("lora/order"))
    seen = [order(step)[0] for step in range(steps)]
    for name, rows in (("ours", list(range(steps))), ("peers", seen)):
        text = json.dumps({"ids": ids[rows].tolist(), "labels": labels[rows].tolist()})
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return int(torch.randint(2**62, (), generator=run.generator("lora/init")))


def once(name: str, folder: Path, given: argparse.Namespace, seed: int, limit: int) -> dict[str, Any]:
    """One run in a fresh process."""
    steps = ["--steps", str(given.steps), "--threads", str(given.threads)]
    if name in (OURS, LIMITED):
        more = ["--limit", str(limit)] if name == LIMITED else []
        arguments = [str(embedded.packaged_file()), str(folder / "ours.json"), *steps, *more]
        script = "run_adapter_featherweight.py"
    else:
        more = ["--checkpointing"] if name == CHECKPOINTED else []
        arguments = [str(folder / "model"), str(folder / "peers.json"), *steps, "--seed", str(seed), *more]
        script = "run_adapter_peft.py"
    found = in_fresh_process(name, Path(sys.executable), script, folder / "out", arguments)
    print(name, found, file=sys.stderr, flush=True)
    return found


def limit_of(runs: Runs) -> int:
    """What our limited run is given."""
    plain, checkpointed = (min(each["peak_bytes"] for each in runs[name]) for name in (PLAIN, CHECKPOINTED))
    return int(min(OF_PLAIN * plain, OF_CHECKPOINTED * checkpointed))


def ratios(runs: Runs, one: str, other: str, key: str) -> list[float]:
    """Median step of one way over that of another, round by round; the first step warms up."""
    pairs = zip(runs[one], runs[other], strict=True)
    return [statistics.median(a[key][1:]) / statistics.median(b[key][1:]) for a, b in pairs]


def facts_of(runs: Runs, limit: int) -> dict[str, Any]:
    """The figures and what they come to."""
    peaks = {name: max(each["peak_bytes"] for each in found) for name, found in runs.items()}
    losses = {name: found[0]["losses"] for name, found in runs.items()}
    distance = {name: max(abs(a - b) for a, b in zip(losses[name], losses[PLAIN], strict=True)) for name in losses}
    times = {
        key: {
            "limited_over_checkpointed": ratios(runs, LIMITED, CHECKPOINTED, key),
            "ours_over_plain": ratios(runs, OURS, PLAIN, key),
        }
        for key in ("step_seconds", "step_cpu_seconds")
    }
    wall = {name: statistics.median(found) for name, found in times["step_seconds"].items()}
    checks = {
        "limited peak / plain peak": (peaks[LIMITED] / peaks[PLAIN], OF_PLAIN),
        "limited peak / checkpointed peak": (peaks[LIMITED] / peaks[CHECKPOINTED], OF_CHECKPOINTED),
        "limited step / checkpointed step": (wall["limited_over_checkpointed"], SLOWER),
        "our step / plain step": (wall["ours_over_plain"], FASTER),
        "largest difference of losses, nats": (max(distance.values()), NOISE),
    }
    return {
        "limit": limit,
        "peak_bytes": peaks,
        "losses": losses,
        "time_ratios": times,
        "checks": {name: {"found": found, "at_most": most} for name, (found, most) in checks.items()},
        "passed": all(found <= most for found, most in checks.values()),
        "runs": runs,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    runs: Runs = {name: [] for name in (PLAIN, CHECKPOINTED, OURS, LIMITED)}
    with TemporaryDirectory() as name:
        folder, limit = Path(name), 0
        (folder / "out").mkdir()
        seed = write_data(folder, given.steps)
        for _ in range(given.rounds):
            for way in runs:
                limit = limit or (limit_of(runs) if way == LIMITED else 0)
                runs[way].append(once(way, folder, given, seed, limit))
    facts = facts_of(runs, limit)
    settings = {"steps": given.steps, "rounds": given.rounds, "threads": given.threads}
    path = save("adapter_training", "python benchmarks/adapter_training.py", {"settings": settings, **facts})
    show(runs, facts)
    Console().print(f"wrote {path.name}; {'passed' if facts['passed'] else 'FAILED'}")
    return 0 if facts["passed"] else 1


def show(runs: Runs, facts: Mapping[str, Any]) -> None:
    console, table = Console(), Table(box=None)
    for title in ("by", "peak memory", "seconds a step", "last loss"):
        table.add_column(title, justify="right")
    for name, found in runs.items():
        steps = statistics.median(second for each in found for second in each["step_seconds"][1:])
        table.add_row(name, format_bytes(facts["peak_bytes"][name]), f"{steps:.2f}", f"{found[0]['losses'][-1]:.6f}")
    console.print(table)
    for name, check in facts["checks"].items():
        console.print(f"{name}: {check['found']:.4g} (at most {check['at_most']:g})", highlight=False)
    plan = runs[LIMITED][0]
    console.print(f"limit {format_bytes(facts['limit'])}: {plan['done']}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
