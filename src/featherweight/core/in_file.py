"""One tensor of a safetensors file, read when it is asked for, whole or in part; safetensors' names of number types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from featherweight.core.errors import CheckpointError
from featherweight.core.lazy import torch

_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    """safetensors' name of a torch dtype."""
    return {name: each for each, name in _TORCH.items()}[str(dtype).removeprefix("torch.")]


def require_finite(values: torch.Tensor) -> None:
    """Refuses NaN and infinity.

    Raises:
        CheckpointError: there is one.
    """
    if not values.is_floating_point():
        return
    # A sum of finite numbers is finite, but for overflow, and takes a third of the time.
    if not math.isfinite(float(values.sum())) and not bool(torch.isfinite(values).all()):
        raise CheckpointError("weights", "holds NaN or infinite values", "repair or download the model again")


@dataclass(frozen=True)
class InFile:
    """Where a tensor lies in a file; reads it when called.

    Mapping the file instead would leave every page once read in the process's resident memory.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    def __call__(self) -> torch.Tensor:
        tensor = torch.empty(self.shape, dtype=self.torch_dtype)
        self.read_into(tensor.reshape(-1), 0)
        return tensor

    @property
    def torch_dtype(self) -> torch.dtype:
        """Raises CheckpointError for a type that torch does not have."""
        if self.dtype not in _TORCH:
            raise CheckpointError(
                str(self.path), f"holds tensors of the type {self.dtype}", "convert them to BF16 or F32"
            )
        return getattr(torch, _TORCH[self.dtype])

    def read_into(self, flat: torch.Tensor, first: int, file: FileIO | None = None) -> None:
        """Fills a one-dimensional tensor with the values from number `first` on, from the file if it is open."""
        if file is None:
            with self.open() as opened:
                return self.read_into(flat, first, opened)
        file.seek(self.offset + first * flat.element_size())
        left = flat.view(torch.uint8).numpy().data
        while left:  # one call reads at most 2 GB
            count = file.readinto(left)
            if not count:
                raise CheckpointError(
                    str(self.path), "has become shorter since it was opened", "download the file again"
                )
            left = left[count:]
        return None

    def open(self) -> FileIO:
        """The file, without a buffer of its own."""
        return self.path.open("rb", buffering=0)
