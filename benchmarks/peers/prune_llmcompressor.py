"""SparseGPT and Wanda by llm-compressor on the CPU; runs inside its own environment and prints one JSON line.

    .venv-llmcompressor/bin/python benchmarks/peers/prune_llmcompressor.py MODEL TOKENS OUT --method wanda --pattern 2:4

Its defaults stay, apart from what the comparison fixes: calibration tokens, sparsity, pattern, damping. The head is
left alone. Knows nothing of featherweight.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import by_llmcompressor
import torch
import transformers
from job import Job, arguments
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

LINEARS = r"re:.*\.(q|k|v|o|gate|up|down)_proj$"


def modifier(job: Job) -> SparseGPTModifier | WandaPruningModifier:
    """Half of the weights of every linear of the blocks."""
    structure = "0:0" if job.pattern == "unstructured" else job.pattern
    if job.method == "wanda":
        return WandaPruningModifier(sparsity=0.5, mask_structure=structure, targets=[LINEARS])
    return SparseGPTModifier(sparsity=0.5, mask_structure=structure, targets=[LINEARS], dampening_frac=job.damping)


def reread(job: Job) -> torch.nn.Module:
    """What the saved folder gives back through transformers."""
    return transformers.AutoModelForCausalLM.from_pretrained(job.saved, dtype=torch.float32)


if __name__ == "__main__":
    by_llmcompressor.run(arguments(__doc__), STARTED, modifier, reread, compressed=False)
