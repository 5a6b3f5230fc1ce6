"""SparseGPT and Wanda by llm-compressor on the CPU; runs inside its own environment and prints one JSON line.

    .venv-llmcompressor/bin/python benchmarks/peers/prune_llmcompressor.py MODEL TOKENS OUT --method wanda --pattern 2:4

Its defaults stay, apart from what the comparison fixes: calibration tokens, sparsity, pattern, damping. The head is
left alone. Knows nothing of featherweight.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import torch
import transformers
from datasets import Dataset
from job import Job, arguments, peak_bytes, report
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from safetensors.torch import save_file

LINEARS = r"re:.*\.(q|k|v|o|gate|up|down)_proj$"


def modifier(job: Job) -> SparseGPTModifier | WandaPruningModifier:
    """Half of the weights of every linear of the blocks."""
    structure = "0:0" if job.pattern == "unstructured" else job.pattern
    if job.method == "wanda":
        return WandaPruningModifier(sparsity=0.5, mask_structure=structure, targets=[LINEARS])
    return SparseGPTModifier(sparsity=0.5, mask_structure=structure, targets=[LINEARS], dampening_frac=job.damping)


def reread(job: Job) -> dict[str, torch.Tensor]:
    """The weights as the saved folder gives them back through transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(job.saved, dtype=torch.float32)
    linears = ((name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
    return {f"{name}.weight": each.weight.detach().float().contiguous() for name, each in linears if name != "lm_head"}


def main() -> None:
    job = arguments(__doc__)
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
    model.save_pretrained(job.saved, save_compressed=False)
    saved = time.perf_counter()
    report(job, "llmcompressor", [STARTED, imported, loaded, done, saved], peak)
    save_file(reread(job), job.out / "dequantized.safetensors")


if __name__ == "__main__":
    main()
