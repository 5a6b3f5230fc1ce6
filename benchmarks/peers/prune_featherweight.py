"""SparseGPT and Wanda by featherweight, in a fresh process like its peer; prints one JSON line.

python benchmarks/peers/prune_featherweight.py MODEL TOKENS OUT --method wanda --pattern 2:4
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import torch
import transformers
from job import arguments, peak_bytes, report
from safetensors.torch import save_file

from featherweight.core.data import TokenSet
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.techniques.prune.sparsegpt import SparseGpt
from featherweight.techniques.prune.wanda import Wanda


def main() -> None:
    job = arguments(__doc__)
    torch.set_num_threads(job.threads)
    transformers.AutoModelForCausalLM  # noqa: B018  featherweight imports it late; for its peers this counts as import
    ids = torch.tensor(job.tokens())
    calibration = TokenSet(ids, ("text",) * len(ids), tuple(range(len(ids))))
    pattern = job.pattern
    technique = Wanda(pattern=pattern) if job.method == "wanda" else SparseGpt(pattern=pattern, damping=job.damping)
    imported = time.perf_counter()
    model = open_model(job.model)
    loaded = time.perf_counter()
    result = technique.apply(model, Run(calibration=calibration, scratch=job.out / "scratch"))
    done = time.perf_counter()
    peak = peak_bytes()
    result.save(job.saved)
    saved = time.perf_counter()
    report(job, "featherweight", [STARTED, imported, loaded, done, saved], peak)
    pruned = open_model(job.saved)
    save_file({name: pruned.tensor(name) for name in model.architecture.linears()}, job.out / "dequantized.safetensors")


if __name__ == "__main__":
    main()
