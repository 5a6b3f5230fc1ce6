"""Optimizers on a small Llama of characters, tuned equally or not at all. `python -m claims.optimizers`.

Every optimizer gets five rates a factor of the square root of ten apart, three seeds, the same batches and 80 steps
under a cosine; what counts is the held-out loss at its end. "Untuned" AdamW is AdamW at 6e-4, the rate of GPT-3's
smallest model, which recipes hand on; "tuned" is the best of its grid. The rival is whichever other optimizer ends
lowest at its own best rate. A seed is the weights and the order of the rows; rows of documents that nobody learnt from
judge.

"Catches up" means: at least three quarters of the gap between untuned AdamW and the rival are closed.
"""

from __future__ import annotations

import math
import time

import torch

from claims.experiment import SEEDS, Experiment, Statement
from featherweight.plan.optimizer_choice import scores, verdict
from featherweight.train.bake_off import Protocol, Trial, run_trial
from featherweight.train.optimizers import find_optimizer, spread
from featherweight.train.workloads import characters

CLAIM = (
    "An optimizer that beats AdamW at a rate taken over from elsewhere does not beat, or hardly beats, AdamW whose "
    "rate was tuned as its own was (arXiv 2605.09176, 2509.02046)."
)
NAMES = ("adamw", "muon", "adafactor", "sgd-momentum")
HANDED_ON = 6e-4
PROTOCOL = Protocol(steps=80, rates=5, seeds=len(SEEDS))


class Trials(Experiment):
    """Held-out rows of every trial."""

    def run(self, name: str, rate: float) -> list[Trial]:
        """All seeds of an optimizer at a rate."""
        workload = characters()
        rows, found = workload.held_out[0], []

        def note(module: torch.nn.Module) -> None:
            with torch.no_grad():
                logits = module(**rows.inputs()).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows.targets, reduction="none")
            self.losses.setdefault(f"{name} at {rate:.2g}", []).append(each.double().mean(1).tolist())

        for seed in SEEDS:
            found.append(run_trial(workload, name, rate, seed, PROTOCOL, note))
        ends = [each.loss for each in found]
        print(f"{time.monotonic() - self.started:5.0f} s  {name:14s} {rate:8.2g}  {min(ends):.4f} to {max(ends):.4f}",
              flush=True)  # fmt: skip
        return found


def main() -> str:
    torch.set_num_threads(1)
    experiment = Trials("optimizers", CLAIM, "nats per character")
    trials = [
        trial
        for name in NAMES
        for rate in spread(find_optimizer(name).learning_rate, PROTOCOL.rates, PROTOCOL.factor)
        for trial in experiment.run(name, rate)
    ]
    handed_on = experiment.run("adamw", HANDED_ON)
    found = scores(trials)
    best = {each.optimizer: each for each in found}
    rival = next(each for each in found if each.optimizer != "adamw")
    gap = sum(each.loss for each in handed_on) / len(handed_on) - rival.mean
    untuned, tuned = f"adamw at {HANDED_ON:.2g}", f"adamw at {best['adamw'].learning_rate:.2g}"
    answer = verdict(found)
    facts = {
        "verdict_of_the_bake_off": {"winner": answer.winner, "reason": answer.reason},
        "scores": [
            {
                "optimizer": each.optimizer, "rate": each.learning_rate, "losses": [round(x, 4) for x in each.losses],
                "basin": round(each.basin, 2), "diverged": f"{each.diverged} of {each.trials}", "edge": each.edge,
                "tokens_to_adamws_end": each.tokens, "ms_a_step": round(each.seconds * 1e3, 1),
                "state_bytes": each.state,
            }
            for each in found
        ],
        "gap_closed": round(1 - (best["adamw"].mean - rival.mean) / gap, 3) if gap > 0 else None,
        "model": "Llama, 2 blocks, 64 wide, 96 characters",
        "calibration": f"{PROTOCOL.steps} steps of 8 rows of 48 characters, seeds {list(SEEDS)}",
        "evaluation": "64 held-out rows of 48 characters",
    }  # fmt: skip
    for name, seeds in list(experiment.losses.items()):
        if not all(math.isfinite(row) for rows in seeds for row in rows):
            del experiment.losses[name]
    statements = [
        Statement(f"{rival.optimizer} at {rival.learning_rate:.2g}", untuned),
        Statement(tuned, untuned),
        Statement(tuned, f"{rival.optimizer} at {rival.learning_rate:.2g}", round(gap / 4, 4)),
    ]
    return experiment.conclude(statements, facts)


if __name__ == "__main__":
    main()
