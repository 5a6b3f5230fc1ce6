"""The export formats as the planner and the verbs use them: one object a format, with equal methods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from featherweight.core.errors import FormatError, nearest
from featherweight.core.model import Model
from featherweight.export import gguf, hugging_face
from featherweight.export.reload import check_reload
from featherweight.measure.latency import decode_latency
from featherweight.measure.memory import resident_memory


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Measured:
    """Timing and memory, which are asked for in the same way whatever the format."""

    def latency(self, path: Path, threads: int | None) -> dict[str, float]:
        """Seconds a decoded token with its extremes, and tokens a second of prompt."""
        found = decode_latency(path, threads=threads or cores())
        return {
            "seconds": found.token_seconds,
            "median": found.median,
            "slowest": found.slowest,
            "prefill": found.prompt_rate,
            "threads": found.threads,
        }

    def resident(self, path: Path, context: int, threads: int | None) -> int:
        """Peak resident bytes of a fresh process that serves `context` tokens."""
        return resident_memory(path, context, threads or cores()).peak


class GgufExporter(_Measured):
    """One .gguf file for llama.cpp."""

    name, runtime, card = "gguf", "gguf", "gguf"

    def file_bytes(self, model: Model, formats: Mapping[str, str] | None = None) -> int:
        """Exact bytes of the file."""
        return gguf.gguf_size(model, formats)

    def write(self, model: Model, folder: Path) -> Path:
        """Writes `model.gguf` into a folder."""
        path = folder / "model.gguf"
        gguf.write_gguf(model, path)
        return path

    def check(self, model: Model, path: Path) -> dict[str, float]:
        """Loads the file in llama.cpp and compares tokens and predictions."""
        found = check_reload(gguf.as_stored(model), path)
        return {"texts": found.texts, "predictions": found.predictions, "difference": found.difference}


class HuggingFaceExporter(_Measured):
    """A folder for transformers and vLLM."""

    name, runtime, card = "hf", "compressed-tensors", "hugging-face"

    def file_bytes(self, model: Model, formats: Mapping[str, str] | None = None) -> int:
        """Exact bytes of the safetensors files."""
        return hugging_face.hugging_face_size(model, formats)

    def write(self, model: Model, folder: Path) -> Path:
        """Writes the folder's files."""
        hugging_face.write_hugging_face(model, folder)
        return folder

    def check(self, model: Model, path: Path) -> dict[str, float]:
        """Loads the folder in plain transformers and compares tokens and logits."""
        found = check_reload(hugging_face.as_stored(model), path)
        return {"texts": found.texts, "predictions": found.predictions, "difference": found.difference}


_KNOWN: dict[str, type[GgufExporter] | type[HuggingFaceExporter]] = {"gguf": GgufExporter, "hf": HuggingFaceExporter}


def exporter(name: str) -> GgufExporter | HuggingFaceExporter:
    """The exporter called `name`.

    Raises:
        FormatError: there is none.
    """
    if name not in _KNOWN:
        hint = nearest(name, _KNOWN) or f"use {' or '.join(_KNOWN)}"
        raise FormatError(f"--format {name!r}", "is no export format", hint)
    return _KNOWN[name]()
