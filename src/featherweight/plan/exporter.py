"""What the planner asks of an export format; `featherweight.export` has one for GGUF and one for Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from featherweight.core.model import Model


class Exporter(Protocol):
    """Sizes, writes, checks and measures one kind of file.

    Attributes:
        name: "gguf" or "hf".
        runtime: whose number formats it stores, "gguf" or "compressed-tensors".
        card: what the model card calls it.
    """

    name: str
    runtime: str
    card: str

    def file_bytes(self, model: Model, formats: Mapping[str, str] | None = None) -> int:
        """Exact bytes of the file if the tensors in `formats` were in those formats."""

    def write(self, model: Model, folder: Path) -> Path:
        """Writes the model into an existing folder; returns what a loader takes."""

    def check(self, model: Model, path: Path) -> Mapping[str, float]:
        """Reloads a written file in its runtime and compares; raises when it computes something else."""

    def latency(self, path: Path, threads: int | None) -> Mapping[str, float]:
        """Seconds a decoded token and tokens a second of prompt, measured in the runtime."""

    def resident(self, path: Path, context: int, threads: int | None) -> int:
        """Peak resident bytes of a fresh process that serves `context` tokens."""
