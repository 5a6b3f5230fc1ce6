"""The governor on a small Llama of characters: how much of the gain for how many of the steps. `python -m
claims.stop_when_flat`.

A training at a constant rate has 600 steps. The governor looks at the mean training loss of every 12 steps and stops
when the rest promises less than 5 % of what was gained. Controls: the whole training; a third of the steps, decided
beforehand; the patience of a usual early stop (no new best held-out loss in three evaluations). A cosine of as many
steps as the governor spent says what a schedule that knew its end would have reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from claims.experiment import SEEDS, Experiment, Statement
from featherweight.train.bake_off import Workload, batch_loss
from featherweight.train.governor import Governor, stop_when_flat
from featherweight.train.loop import Schedule, minimise
from featherweight.train.optimizers import build_optimizer
from featherweight.train.workloads import characters

CLAIM = (
    "Training that stops when its predicted marginal gain falls below a threshold that depends on the budget left "
    "keeps at least 95 % of the gain for at most 60 % of the steps (rule after arXiv 2606.10706)."
)
STEPS, CHUNK, RATE = 600, 12, 3e-3
Stop = Callable[[int, float], bool]


class Endings(Experiment):
    """Held-out rows at the end of trainings that differ in when they stop."""

    steps: dict[str, list[int]]

    def note(self, name: str, seed: int, stop: Stop | None, schedule: Schedule, module: torch.nn.Module) -> int:
        """Trains and records; returns the steps that were made."""
        workload = characters()
        batches = workload.batches(seed)
        optimizer = build_optimizer("adamw", module.named_parameters(), RATE)
        made = len(
            minimise(
                module.parameters(), lambda step: batch_loss(module, batches(step)), schedule, optimizer=optimizer,
                stop=stop,
            )
        )  # fmt: skip
        self.record(name, workload, module)
        self.steps.setdefault(name, []).append(made)
        mean = torch.tensor(self.losses[name][-1]).mean()
        print(f"{time.monotonic() - self.started:5.0f} s  {name:24s} {made:4d} steps  {mean:.4f}", flush=True)
        return made

    def record(self, name: str, workload: Workload, module: torch.nn.Module) -> None:
        self.losses.setdefault(name, []).append(rows_of(workload, module))


def rows_of(workload: Workload, module: torch.nn.Module) -> list[float]:
    """Mean NLL of every held-out row."""
    rows = workload.held_out[0]
    with torch.no_grad():
        logits = module(**rows.inputs()).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows.targets, reduction="none").mean(1).tolist()


def patient(evaluate: Callable[[], float]) -> Stop:
    """A usual early stop: three evaluations without a new best."""
    seen: list[float] = []

    def stop(step: int, _: float) -> bool:
        if (step + 1) % CHUNK:
            return False
        seen.append(evaluate())
        return min(range(len(seen)), key=seen.__getitem__) < len(seen) - 3

    return stop


def main() -> str:
    torch.set_num_threads(1)
    experiment = Endings("stop-when-flat", CLAIM, "nats per character")
    experiment.steps = {}
    workload, flat = characters(), Schedule(STEPS, RATE, 20, "none")
    for seed in SEEDS:
        experiment.record("untrained", workload, workload.start(seed))
        experiment.note("all steps", seed, None, flat, workload.start(seed))
        experiment.note(
            "a third of the steps", seed, None, Schedule(STEPS // 3, RATE, 20, "none"), workload.start(seed)
        )
        governor = Governor(budget=STEPS)
        made = experiment.note("governor", seed, stop_when_flat(governor, CHUNK), flat, workload.start(seed))
        module = workload.start(seed)
        patience = patient(lambda module=module: sum(rows_of(workload, module)))
        experiment.note("patience of three", seed, patience, flat, module)
        experiment.note("cosine of as many steps", seed, None, Schedule(made, RATE, 20), workload.start(seed))
    mean = {name: float(torch.tensor(rows).mean()) for name, rows in experiment.losses.items()}
    gain = mean["untrained"] - mean["all steps"]
    shares = [made / STEPS for made in experiment.steps["governor"]]
    few = {
        "statement": "the governor makes at most 60 % of the steps, in every seed",
        "difference": round(max(shares) - 0.6, 4),
        "interval": [round(min(shares) - 0.6, 4), round(max(shares) - 0.6, 4)],
        "outcome": "holds" if max(shares) <= 0.6 else "contradicted" if min(shares) > 0.6 else "undecided",
        "unit": "share of the steps",
    }
    facts = {
        "steps": experiment.steps,
        "share_of_the_gain": {name: round((mean["untrained"] - each) / gain, 4) for name, each in mean.items()},
        "model": "Llama, 2 blocks, 64 wide, 96 characters",
        "calibration": f"at most {STEPS} steps of 8 rows of 48 characters, seeds {list(SEEDS)}",
        "evaluation": "64 held-out rows of 48 characters",
    }
    statements = [
        Statement("governor", "all steps", round(0.05 * gain, 4)), Statement("governor", "a third of the steps"),
    ]  # fmt: skip
    return experiment.conclude(statements, facts, [few])


if __name__ == "__main__":
    main()
