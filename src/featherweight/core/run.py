"""Run: everything a step may use beside the model: calibration tokens, seed, device, progress, store."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.checkpoint import Entry, Stored, entry_of, read_entries, write_tensors
from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.store import Store

HELD_BYTES = 32 * 10**6
SPILLED = "spilled-"


@dataclass
class Run:
    """The surroundings of a step. No globals, no environment: a technique reads this and nothing else.

    Attributes:
        calibration: tokens to calibrate on; None where no step needs them.
        seed: every random choice of a step is drawn from `generator(...)`, which derives from it.
        device: "cpu" or "cuda".
        parent: the model that the run started from, for techniques that look back.
        scratch: a folder for tensors that do not fit in memory.
        notes: what the step says of itself beyond its fields; it becomes part of the step's receipt.
    """

    calibration: TokenSet | None = None
    seed: int = 0
    device: str = "cpu"
    parent: Model | None = None
    progress: Progress = field(default_factory=Progress)
    store: Store = field(default_factory=Store)
    scratch: Path | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def note(self, key: str, value: Any) -> None:
        """Adds a fact to the step's receipt: plain JSON that the same inputs give again."""
        self.notes[key] = value

    def tokens(self, asked_by: str) -> TokenSet:
        """The calibration tokens.

        Raises:
            DataError: there are none.
        """
        if self.calibration is None:
            raise DataError(asked_by, "needs calibration text", "give a file with --text, or leave the default")
        return self.calibration

    def generator(self, purpose: str) -> torch.Generator:
        """A random generator that depends on the seed and on what it is for, and on nothing else."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def uniform(self, purpose: str, shape: Sequence[int]) -> torch.Tensor:
        """Random numbers in [0, 1), float32, that depend on the seed and the purpose: scores of a random control."""
        return torch.rand(tuple(shape), generator=self.generator(purpose))


def forget_spilled(run: Run) -> None:
    """Removes what steps put on disk while they ran; for when their results are kept elsewhere."""
    for folder in run.scratch.glob(f"{SPILLED}*") if run.scratch is not None else ():
        shutil.rmtree(folder)


class Rewrite:
    """Collects the changed tensors of a step; beyond some megabytes they go to disk, shard by shard.

    Args:
        model: the model being rewritten.
        run: gives the scratch folder; without one everything stays in memory.
    """

    def __init__(self, model: Model, run: Run) -> None:
        self.model, self.run = model, run
        self._done: dict[str, Entry] = {}
        self._held: dict[str, Entry] = {}

    def __setitem__(self, name: str, stored: Stored) -> None:
        self._held[name] = entry_of(stored)
        if self.run.scratch is not None and sum(entry.nbytes for entry in self._held.values()) > HELD_BYTES:
            self._spill(self.run.scratch)

    def __contains__(self, name: str) -> bool:
        return name in self._held or name in self._done

    def _spill(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=SPILLED, dir=scratch))
        write_tensors(folder, self._held)
        self._done.update(read_entries(folder))
        self._held.clear()

    def finish(self, planned: dict[str, str] | None = None, onto: Model | None = None) -> Model:
        """The model, or `onto`, which has tensors of the same names, with all collected changes."""
        return (onto or self.model).with_changes({**self._done, **self._held}, planned=planned)
