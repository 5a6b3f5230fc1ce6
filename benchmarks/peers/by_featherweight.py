"""What the two runners of featherweight share: one technique on the job's tokens under the clock, saved and reread."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import transformers
from job import Job, peak_bytes, report
from safetensors.torch import save_file

from featherweight.core.data import TokenSet
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.core.technique import Technique


def run(job: Job, started: float, technique: Callable[[Job], Technique]) -> None:
    """Compresses the model, saves it, prints the figures, and writes the weights that the saved folder gives back.

    Args:
        job: what is to be done.
        started: clock before the first import.
        technique: makes the step with the job's settings.
    """
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
    report(job, "featherweight", [started, imported, loaded, done, saved], peak)
    again = open_model(job.saved)
    save_file({name: again.tensor(name) for name in model.architecture.linears()}, job.out / "dequantized.safetensors")
