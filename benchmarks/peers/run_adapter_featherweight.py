"""LoRA by featherweight, in a fresh process like its peers; prints one JSON line.

    python benchmarks/peers/run_adapter_featherweight.py MODEL ROWS --steps 8 [--limit BYTES]

What `featherweight adapt --memory` does, without what it measures before and afterwards.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from adapter_job import ALPHA, LEARNING_RATE, RANK, SEED, AdapterJob, arguments, report
from job import peak_bytes

from featherweight.core.examples import Example
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.techniques.adapt.lora import Lora
from featherweight.train.fitted import fitted, shape_of
from featherweight.train.memory import plan_memory
from featherweight.train.next_token import next_token_loss
from featherweight.train.trainer import Hooks


def rows_of(job: AdapterJob) -> PackedRows:
    """The rows, each an example of its own."""
    data = job.read()
    examples = [
        Example(np.array(ids, np.int32), np.array(labels) >= 0, f"row {number}")
        for number, (ids, labels) in enumerate(zip(data["ids"], data["labels"], strict=True))
    ]
    return PackedRows(examples, len(data["ids"][0]), share=False)


class Clock:
    """Notes when steps start: what the trainer calls to get a loss."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.processor: list[float] = []

    def note(self) -> None:
        self.starts.append(time.perf_counter())
        self.processor.append(time.process_time())

    def loss(self, module: Any, batch: Any) -> tuple[torch.Tensor, int]:
        self.note()
        return next_token_loss(module, batch)


def main() -> None:
    job, clock = arguments(__doc__), Clock()
    torch.set_num_threads(job.threads)
    technique = Lora(
        rank=RANK, alpha=ALPHA, steps=job.steps, learning_rate=LEARNING_RATE, warmup=0, batch=1, length=512
    )
    model, run, rows = open_model(job.model), Run(seed=SEED), rows_of(job)
    plan = plan_memory(model, technique, shape_of(technique, rows), job.limit or None)
    with fitted(technique, model, run, plan if job.limit else None) as adapted:
        course = technique.train(adapted, rows, run, Hooks(loss_of=clock.loss))
    clock.note()
    report(
        "featherweight-limited" if job.limit else "featherweight", course.losses, clock.starts, clock.processor,
        {"plan": plan.receipt(peak_bytes()), "done": plan.levers.words()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
