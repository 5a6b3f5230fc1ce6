"""Resident memory of this process, as the operating system counts it: its peak, and giving back what is free."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from pathlib import Path


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
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


def resident_memory() -> int:
    """Resident set of this process now, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def forget_peak() -> bool:
    """Starts the count of `peak_memory` again from what is resident now; False where the system cannot (Linux can)."""
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


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
