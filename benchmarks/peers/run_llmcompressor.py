"""W4 GPTQ by llm-compressor on the CPU; runs inside llm-compressor's own environment and prints one JSON line.

    .venv-llmcompressor/bin/python benchmarks/peers/run_llmcompressor.py MODEL TOKENS OUT --group 64 --down-group 128

Its defaults stay, apart from what the comparison fixes: calibration tokens, group lengths, symmetry, damping.
Knows nothing of featherweight.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from job import Job, arguments, peak_bytes, report
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import save_file


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


def reread(job: Job) -> dict[str, torch.Tensor]:
    """The weights as the saved folder gives them back through transformers and compressed-tensors."""
    settings = transformers.CompressedTensorsConfig(run_compressed=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.saved, dtype=torch.float32, quantization_config=settings
    )
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
    model.save_pretrained(job.saved, save_compressed=True)
    saved = time.perf_counter()
    report(job, "llmcompressor", [STARTED, imported, loaded, done, saved], peak)
    save_file(reread(job), job.out / "dequantized.safetensors")


if __name__ == "__main__":
    main()
