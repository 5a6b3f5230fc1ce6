"""SparseGPT and Wanda by featherweight, in a fresh process like its peer; prints one JSON line.

python benchmarks/peers/prune_featherweight.py MODEL TOKENS OUT --method wanda --pattern 2:4
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import by_featherweight
from job import Job, arguments

from featherweight.techniques.prune.sparsegpt import SparseGpt
from featherweight.techniques.prune.wanda import Wanda


def technique(job: Job) -> SparseGpt | Wanda:
    """Half of the weights of every linear of the blocks."""
    if job.method == "wanda":
        return Wanda(pattern=job.pattern)
    return SparseGpt(pattern=job.pattern, damping=job.damping)


if __name__ == "__main__":
    by_featherweight.run(arguments(__doc__), STARTED, technique)
