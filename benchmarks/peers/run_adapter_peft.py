"""LoRA by PEFT and transformers' Trainer, as a person writes it; prints one JSON line.

    python benchmarks/peers/run_adapter_peft.py MODEL ROWS --steps 8 [--checkpointing]

Everything is the default of the two libraries, apart from what the comparison fixes: rank, rate, the order of the rows.
Knows nothing of featherweight.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from adapter_job import ALPHA, LEARNING_RATE, RANK, AdapterJob, arguments, report
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Clock(TrainerCallback):
    """Notes when steps start, and when the last one ends."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.processor: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.starts.append(time.perf_counter())
        self.processor.append(time.process_time())

    on_train_end = on_step_begin


def trainer(job: AdapterJob, folder: str, clock: Clock) -> Trainer:
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    torch.manual_seed(job.seed)
    model = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    data = job.read()
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(data["ids"], data["labels"], strict=True)]
    settings = TrainingArguments(
        folder, per_device_train_batch_size=1, max_steps=job.steps, learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine", logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        gradient_checkpointing=job.checkpointing, train_sampling_strategy="sequential",
    )  # fmt: skip
    return Trainer(model, settings, train_dataset=rows, callbacks=[clock])


def main() -> None:
    job, clock = arguments(__doc__), Clock()
    torch.set_num_threads(job.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(job, folder, clock)
        run.train()
    losses = [each["loss"] for each in run.state.log_history if "loss" in each]
    report("peft-checkpointed" if job.checkpointing else "peft", losses, clock.starts, clock.processor)


if __name__ == "__main__":
    main()
