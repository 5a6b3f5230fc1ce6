"""W4 GPTQ by featherweight, in a fresh process like its peers; prints one JSON line.

python benchmarks/peers/run_featherweight.py MODEL TOKENS OUT --group 64 --down-group 128
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import by_featherweight
from job import Job, arguments

from featherweight.techniques.quantize.gptq import Gptq


def technique(job: Job) -> Gptq:
    """`gptq` with its defaults and the groups of this job."""
    tail = "" if job.symmetric else "-asym"
    overrides = {"*.down_proj.weight": f"int4-g{job.down_group}{tail}"}
    return Gptq(format=f"int4-g{job.group}{tail}", overrides=overrides, damping=job.damping)


if __name__ == "__main__":
    by_featherweight.run(arguments(__doc__), STARTED, technique)
