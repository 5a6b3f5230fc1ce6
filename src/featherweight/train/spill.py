"""Tensors in a temporary file, written and read whole, the next one ahead of time in a thread.

The file has no name where the system allows that (Linux), so nothing is left behind, whatever ends the process. It is
read and not mapped: pages of a mapped file count as resident memory once touched, which is what was to be saved.
"""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import OutputError
from featherweight.core.lazy import torch


@dataclass(frozen=True)
class Spilled:
    """Where a tensor lies."""

    offset: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    device: torch.device


class Spill:
    """A temporary file of tensors; use it in a `with` block.

    Args:
        folder: on which disk; None = the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self._file: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise self._failure(folder, error) from None
        self._folder, self._lock = folder, threading.Lock()
        self._end = 0
        self._free: dict[int, list[int]] = {}
        self._ahead: dict[int, Future[torch.Tensor]] = {}
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._file.close()
        self._ahead.clear()

    @property
    def closed(self) -> bool:
        return bool(self._file.closed)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self._end

    def put(self, tensor: torch.Tensor) -> Spilled:
        """Writes a tensor.

        Raises:
            OutputError: the disk is full, or the file is closed.
        """
        data = tensor.detach().cpu().contiguous()
        free = self._free.get(data.nbytes)
        offset = free.pop() if free else self._end
        self._end = max(self._end, offset + data.nbytes)
        view = data.reshape(-1).view(torch.uint8).numpy().data
        try:
            with self._lock:
                self._file.seek(offset)
                written = 0
                while written < data.nbytes:
                    written += self._file.write(view[written:])
        except (OSError, ValueError) as error:
            raise self._failure(self._folder, error) from None
        return Spilled(offset, data.nbytes, data.dtype, tuple(data.shape), tensor.device)

    def get(self, place: Spilled) -> torch.Tensor:
        """Reads a tensor; it stays in the file."""
        ahead = self._ahead.pop(place.offset, None)
        return ahead.result() if ahead is not None else self._read(place)

    def prefetch(self, place: Spilled) -> None:
        """Starts to read a tensor that `get` or `pop` will ask for soon."""
        if place.offset not in self._ahead:
            self._ahead[place.offset] = self._thread.submit(self._read, place)

    def pop(self, place: Spilled) -> torch.Tensor:
        """Reads a tensor and gives its place in the file free."""
        tensor = self.get(place)
        self._free.setdefault(place.nbytes, []).append(place.offset)
        return tensor

    def _read(self, place: Spilled) -> torch.Tensor:
        tensor = torch.empty(place.shape, dtype=place.dtype)
        view = tensor.reshape(-1).view(torch.uint8).numpy().data
        try:
            with self._lock:
                self._file.seek(place.offset)
                done = 0
                while done < place.nbytes:
                    done += self._file.readinto(view[done:])
        except (OSError, ValueError) as error:
            raise self._failure(self._folder, error) from None
        return tensor.to(place.device)

    @staticmethod
    def _failure(folder: Path | None, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        where = str(folder or tempfile.gettempdir())
        return OutputError(
            f"temporary file in {where}", f"cannot be used ({reason})", "free some space, or use another folder"
        )
