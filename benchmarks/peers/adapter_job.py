"""What the runs that train an adapter share: their arguments, the rows, the pace, the line that they print."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job import peak_bytes

RANK, ALPHA, LEARNING_RATE, SEED = 16, 32, 2e-4, 0


@dataclass(frozen=True)
class AdapterJob:
    """One training.

    Attributes:
        model: Hugging Face folder in float32, or a GGUF file with the same values.
        rows: JSON file: {"ids": rows of token ids, "labels": the same with -100 where nothing is trained}.
        steps: updates, one row each.
        threads: of torch.
        checkpointing: PEFT's run: with gradient checkpointing.
        limit: our run: bytes, 0 = none.
        seed: PEFT's run: of torch when the adapter is made, so that all start from the same one.
    """

    model: Path
    rows: Path
    steps: int
    threads: int
    checkpointing: bool
    limit: int
    seed: int

    def read(self) -> dict[str, list[list[int]]]:
        """Rows of ids and labels."""
        return dict(json.loads(self.rows.read_text(encoding="utf-8")))


def arguments(description: str | None) -> AdapterJob:
    """The job that the command line asks for."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    return AdapterJob(**vars(parser.parse_args()))


def report(
    name: str, losses: list[float], starts: list[float], processor: list[float], more: dict[str, Any] | None = None
) -> None:
    """Prints the JSON line.

    Args:
        name: of the peer.
        losses: of every step.
        starts: clock at the start of every step, and at the end of the last.
        processor: processor seconds of this process at the same moments.
        more: what else there is to say.
    """
    figures = {
        "peer": name,
        "losses": losses,
        "step_seconds": [after - before for before, after in itertools.pairwise(starts)],
        "step_cpu_seconds": [after - before for before, after in itertools.pairwise(processor)],
        "peak_bytes": peak_bytes(),
        "load_average": os.getloadavg()[0],
        **(more or {}),
    }
    print(json.dumps(figures), flush=True)
