"""What the two runners of llm-compressor share: one call on the job's tokens under the clock, then the saved weights.

Runs inside llm-compressor's own environment. Knows nothing of featherweight.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from datasets import Dataset
from job import Job, peak_bytes, report
from llmcompressor import oneshot
from safetensors.torch import save_file


def run(
    job: Job, started: float, modifier: Callable[[Job], Any], reread: Callable[[Job], torch.nn.Module], compressed: bool
) -> None:
    """Compresses the model, saves it, prints the figures, and writes the weights that the saved folder gives back.

    Args:
        job: what is to be done.
        started: clock before the first import.
        modifier: makes llm-compressor's recipe.
        reread: opens the saved folder.
        compressed: whether it is saved in the compressed format.
    """
    torch.set_num_threads(job.threads)
    rows = job.tokens()
    imported = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    dataset = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    loaded = time.perf_counter()
    oneshot(
        model=model,
        dataset=dataset,
        recipe=modifier(job),
        num_calibration_samples=len(rows),
        max_seq_length=len(rows[0]),
        batch_size=job.batch,
    )
    done = time.perf_counter()
    peak = peak_bytes()
    model.save_pretrained(job.saved, save_compressed=compressed)
    saved = time.perf_counter()
    report(job, "llmcompressor", [started, imported, loaded, done, saved], peak)
    save_file(_weights(reread(job)), job.out / "dequantized.safetensors")


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of every linear but the head, float32."""
    linears = ((name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
    return {f"{name}.weight": each.weight.detach().float().contiguous() for name, each in linears if name != "lm_head"}
