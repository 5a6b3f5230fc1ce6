"""ggml's own kernels, to quantize and to read back, called through the shared library inside the xllamacpp wheel.

Falls back to gguf-py's numpy code, which knows fewer types and takes no importance, where the wheel does not export
the symbols. Rows are quantized in parallel threads: the kernels hold no Python lock.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from featherweight.core.errors import FormatError
from featherweight.core.lazy import gguf, np, torch


@functools.cache
def library() -> ctypes.CDLL | None:
    """The shared library with ggml's symbols, or None where there is none."""
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("xllamacpp*.so")) + sorted(Path(folder).glob("xllamacpp*.pyd")):
            try:
                found = ctypes.CDLL(str(path))
                found.ggml_quantize_init.argtypes = [ctypes.c_int]
                chunk = found.ggml_quantize_chunk
            except (OSError, AttributeError):
                continue
            chunk.restype = ctypes.c_size_t
            pointer, count = ctypes.c_void_p, ctypes.c_int64
            chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
            return found
    return None


def quantize(weight: np.ndarray, type_name: str, importance: np.ndarray | None = None) -> np.ndarray:
    """Blocks uint8 [rows, bytes a row] of `weight` float32 [rows, columns] in the ggml type `type_name`.

    Raises:
        FormatError: the row length does not fit the type (the kernels would write past the row), or neither the
            kernels nor gguf-py can make this type.
    """
    kind = gguf.GGMLQuantizationType[type_name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = weight.shape
    if columns % block:
        raise FormatError(type_name, f"rows of {columns} are no multiple of its block of {block}", "use another type")
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    kernels = library()
    if kernels is None:
        return _quantize_in_numpy(weight, type_name)
    kernels.ggml_quantize_init(int(kind))
    blocks = np.empty((rows, columns // block * size), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)

    def work(first: int, last: int) -> None:
        source, target = weight[first:last], blocks[first:last]
        given = None if weights is None else weights.ctypes.data
        kernels.ggml_quantize_chunk(int(kind), source.ctypes.data, target.ctypes.data, 0, last - first, columns, given)

    threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, rows)
    edges = [rows * i // threads for i in range(threads + 1)]
    if threads == 1 or weight.size < 1 << 14:
        work(0, rows)
        return blocks
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))
    return blocks


def dequantize_into(blocks: torch.Tensor, type_name: str, values: torch.Tensor) -> bool:
    """Writes the values of blocks into memory that is there; False where the kernels cannot.

    Args:
        blocks: uint8, contiguous.
        type_name: their ggml type.
        values: float32, contiguous, one number for each weight.
    """
    kernel = _reader(type_name)
    if kernel is None or not (blocks.is_contiguous() and values.is_contiguous()):
        return False
    kernel(blocks.data_ptr(), values.data_ptr(), values.numel())
    return True


@functools.cache
def _reader(type_name: str) -> Callable[[int, int, int], None] | None:
    """The kernel that reads a type back, where its values are those of gguf-py to the last bit."""
    kernels = library()
    try:
        kernel = getattr(kernels, f"dequantize_row_{type_name.lower()}")
        kind = gguf.GGMLQuantizationType[type_name]
        block, _ = gguf.GGML_QUANT_SIZES[kind]
    except (AttributeError, KeyError):
        return None
    kernel.argtypes, kernel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    sample = quantize(np.random.default_rng(0).standard_normal((8, 4 * block), dtype=np.float32), type_name)
    found = np.empty((8, 4 * block), dtype=np.float32)
    kernel(sample.ctypes.data, found.ctypes.data, found.size)
    return kernel if np.array_equal(found, gguf.quants.dequantize(sample, kind)) else None


def _quantize_in_numpy(weight: np.ndarray, type_name: str) -> np.ndarray:
    try:
        return gguf.quants.quantize(weight, gguf.GGMLQuantizationType[type_name])
    except NotImplementedError:
        raise FormatError(
            type_name,
            "gguf-py cannot make this type and ggml's kernels were not found",
            "install xllamacpp, or use Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, F16 or BF16",
        ) from None
