"""Memory of this process: resident as the operating system counts it, or what torch holds of a GPU; giving back."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_returning = 0  # how many `large_blocks_returned` are open


def peak_memory(device: str = "cpu") -> int:
    """Largest resident set of this process so far, in bytes; of a GPU, the most that torch's tensors took."""
    if device != "cpu":
        from featherweight.core.lazy import torch

        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    except ImportError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def resident_memory(device: str = "cpu") -> int:
    """Resident set of this process now, in bytes; of a GPU, what torch's tensors take."""
    if device != "cpu":
        from featherweight.core.lazy import torch

        return int(torch.cuda.memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def forget_peak(device: str = "cpu") -> bool:
    """Starts the count of `peak_memory` again from what is resident now; False where the system cannot (Linux can)."""
    if device != "cpu":
        from featherweight.core.lazy import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def give_back_memory() -> None:
    """Returns freed memory to the operating system.

    glibc keeps what was freed between two live allocations; where a few small results outlive many large temporaries,
    as in a walk through a model, that comes to several times what is in use.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def given_back_above(limit: int) -> Callable[[], None]:
    """Something to call now and then: it gives freed memory back whenever this process has more than `limit` bytes.

    What is given back costs a page fault for each page that is used again, so it is done when it must be: a training
    step that had all large blocks returned as soon as they were free spent a third of its processor time on that.
    """

    def relieve() -> None:
        if resident_memory() > limit:
            give_back_memory()

    return relieve


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """While it is open, memory of a megabyte or more goes back to the operating system as soon as it is freed.

    glibc otherwise comes to keep everything below 32 MB for later, which is quicker, and in the holes between what is
    kept a training step loses a hundred megabytes and more. Inside another of its kind it changes nothing.
    """
    global _returning
    option = _option()
    if option is None:
        yield
        return
    _returning += 1
    option(_MMAP_THRESHOLD, 1 << 20)
    option(_TRIM_THRESHOLD, 8 << 20)
    try:
        yield
    finally:
        _returning -= 1
        if not _returning:
            option(_MMAP_THRESHOLD, 32 << 20)  # where glibc's own adjustment ends up
            option(_TRIM_THRESHOLD, 64 << 20)


@functools.cache
def _option() -> Callable[[int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
