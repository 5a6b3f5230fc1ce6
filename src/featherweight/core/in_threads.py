"""Work on many tensors in a few threads: what a tensor gives does not depend on how many there are.

Reading, hashing and torch's loops leave the interpreter's lock, so that threads are enough. While they run, torch
itself uses one thread: sums are then added up in one order on one machine, whatever its number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from featherweight.core.lazy import torch

_MOST = 4  # each holds tensors

K = TypeVar("K")
V = TypeVar("V")


def usual_threads() -> int:
    """As many as there are cores that this process may use, up to four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST)


def in_threads(work: Callable[[K], V], items: Iterable[K], threads: int) -> list[V]:
    """Results of `work` in the order of the items; the first error, or an interruption, ends it."""
    with _alone():
        if threads <= 1:
            return [work(item) for item in items]
        pool = ThreadPoolExecutor(threads)
        try:
            return [each.result() for each in [pool.submit(work, item) for item in items]]
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _alone() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
