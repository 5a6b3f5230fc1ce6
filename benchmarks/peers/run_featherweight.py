"""W4 GPTQ by featherweight, in a fresh process like its peers; prints one JSON line.

python benchmarks/peers/run_featherweight.py MODEL TOKENS OUT --group 64 --down-group 128
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import torch
import transformers
from job import Job, arguments, peak_bytes, report
from safetensors.torch import save_file

from featherweight.core.data import TokenSet
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.techniques.quantize.gptq import Gptq


def technique(job: Job) -> Gptq:
    """`gptq` with its defaults and the groups of this job."""
    tail = "" if job.symmetric else "-asym"
    overrides = {"*.down_proj.weight": f"int4-g{job.down_group}{tail}"}
    return Gptq(format=f"int4-g{job.group}{tail}", overrides=overrides, damping=job.damping)


def main() -> None:
    job = arguments(__doc__)
    torch.set_num_threads(job.threads)
    transformers.AutoModelForCausalLM  # noqa: B018  featherweight imports it late; for its peers this counts as import
    ids = torch.tensor(job.tokens())
    calibration = TokenSet(ids, ("text",) * len(ids), tuple(range(len(ids))))
    imported = time.perf_counter()
    model = open_model(job.model)
    loaded = time.perf_counter()
    result = technique(job).apply(model, Run(calibration=calibration, scratch=job.out / "scratch"))
    done = time.perf_counter()
    peak = peak_bytes()
    result.save(job.saved)
    saved = time.perf_counter()
    report(job, "featherweight", [STARTED, imported, loaded, done, saved], peak)
    linears = model.architecture.linears()
    save_file({name: open_model(job.saved).tensor(name) for name in linears}, job.out / "dequantized.safetensors")


if __name__ == "__main__":
    main()
