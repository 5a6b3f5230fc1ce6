"""W4 GPTQ by GPTQModel on the CPU; runs inside GPTQModel's own environment and prints one JSON line.

    .venv-gptqmodel/bin/python benchmarks/peers/run_gptqmodel.py MODEL TOKENS OUT --group 64 --down-group 128

Its defaults stay, apart from what the comparison fixes: calibration tokens, group lengths, symmetry, damping.
Knows nothing of featherweight.
"""

from __future__ import annotations

import os
import time

STARTED = time.perf_counter()
# On two cores GPTQModel starts one worker and then asks for two, and stops; its own variable mends that.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, ((os.cpu_count() or 1) + 1) // 2)))

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from job import Job, arguments, peak_bytes, report
from safetensors.torch import save_file


def settings(job: Job) -> QuantizeConfig:
    """GPTQModel's defaults (its group-aware act-order among them) with the groups of this job."""
    dynamic = {r".*\.down_proj$": {"group_size": job.down_group}} if job.down_group != job.group else None
    return QuantizeConfig(
        bits=4, group_size=job.group, sym=job.symmetric, damp_percent=job.damping, dynamic=dynamic, device="cpu"
    )


def reread(job: Job) -> dict[str, torch.Tensor]:
    """The weights as the saved folder gives them back through GPTQModel's PyTorch kernel (which takes float16 only)."""
    model = GPTQModel.load(str(job.saved), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    packed = ((name, each) for name, each in model.model.named_modules() if hasattr(each, "qweight"))
    return {f"{name}.weight": each.dequantize_weight().T.float().contiguous() for name, each in packed}


def main() -> None:
    job = arguments(__doc__)
    torch.set_num_threads(job.threads)
    rows = job.tokens()
    imported = time.perf_counter()
    model = GPTQModel.load(str(job.model), settings(job), dtype=torch.float32)
    loaded = time.perf_counter()
    model.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows], batch_size=job.batch)
    done = time.perf_counter()
    peak = peak_bytes()
    model.save(str(job.saved))
    saved = time.perf_counter()
    report(job, "gptqmodel", [STARTED, imported, loaded, done, saved], peak)
    save_file(reread(job), job.out / "dequantized.safetensors")


if __name__ == "__main__":
    main()
