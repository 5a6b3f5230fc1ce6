"""W4 GPTQ by llm-compressor on the CPU; runs inside llm-compressor's own environment and prints one JSON line.

    .venv-llmcompressor/bin/python benchmarks/peers/run_llmcompressor.py MODEL TOKENS OUT --group 64 --down-group 128

Its defaults stay, apart from what the comparison fixes: calibration tokens, group lengths, symmetry, damping.
Knows nothing of featherweight.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import by_llmcompressor
import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from job import Job, arguments
from llmcompressor.modifiers.gptq import GPTQModifier


def scheme(targets: str, group: int, symmetric: bool) -> QuantizationScheme:
    """4-bit integers in groups of columns for the modules whose names match."""
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=group)
    return QuantizationScheme(targets=[targets], weights=weights)


def modifier(job: Job) -> GPTQModifier:
    """llm-compressor's GPTQ with its default act-order ("static"); the head is left alone."""
    groups = {
        "most": scheme(r"re:.*\.(q|k|v|o|gate|up)_proj$", job.group, job.symmetric),
        "down": scheme(r"re:.*\.down_proj$", job.down_group, job.symmetric),
    }
    return GPTQModifier(config_groups=groups, ignore=["lm_head"], dampening_frac=job.damping)


def reread(job: Job) -> torch.nn.Module:
    """What the saved folder gives back through transformers and compressed-tensors."""
    settings = transformers.CompressedTensorsConfig(run_compressed=False)
    return transformers.AutoModelForCausalLM.from_pretrained(
        job.saved, dtype=torch.float32, quantization_config=settings
    )


if __name__ == "__main__":
    by_llmcompressor.run(arguments(__doc__), STARTED, modifier, reread, compressed=True)
