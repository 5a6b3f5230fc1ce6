"""What the runners of all peers share: their arguments, the calibration tokens, peak memory, the line they print.

Standard library only, because it is imported inside each peer's own environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = ("torch", "transformers", "compressed-tensors", "llmcompressor", "gptqmodel", "featherweight", "numpy")


@dataclass(frozen=True)
class Job:
    """One quantization, or one pruning, to be done.

    Attributes:
        model: Hugging Face folder in float32.
        calibration: JSON file with rows of token ids, all of one length.
        out: folder for the result; `dequantized.safetensors` in it is what everybody is judged on.
        group: columns that share a scale, except in `down_proj`.
        down_group: the same for `down_proj`, whose rows are longer.
        batch: rows of tokens at a time, for peers that let their user choose.
        method: of pruning: "sparsegpt" or "wanda".
        pattern: of pruning: "unstructured", which is half of the weights, or "2:4".
    """

    model: Path
    calibration: Path
    out: Path
    group: int
    down_group: int
    symmetric: bool
    damping: float
    threads: int
    batch: int
    method: str
    pattern: str

    @property
    def saved(self) -> Path:
        """Where the peer saves in its own format."""
        return self.out / "saved"

    def tokens(self) -> list[list[int]]:
        """Rows of calibration token ids."""
        rows: list[list[int]] = json.loads(self.calibration.read_text(encoding="utf-8"))
        return rows


def arguments(description: str | None) -> Job:
    """The job that the command line asks for; the output folder is made."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    for name in ("model", "calibration", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--down-group", type=int, default=0, help="group of down_proj; 0 = as the others")
    parser.add_argument("--asymmetric", action="store_true")
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--method", choices=["sparsegpt", "wanda"], default="sparsegpt")
    parser.add_argument("--pattern", choices=["unstructured", "2:4"], default="unstructured")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    down = given.down_group or given.group
    return Job(
        given.model, given.calibration, given.out, given.group, down,
        not given.asymmetric, given.damping, given.threads, given.batch, given.method, given.pattern,
    )  # fmt: skip


def peak_bytes() -> int:
    """Largest resident set of this process so far (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def report(job: Job, name: str, moments: Sequence[float], peak: int) -> None:
    """Prints the JSON line: seconds of each stage, peak bytes, versions.

    Args:
        job: what was done.
        name: of the peer.
        moments: clock at the start, after imports, after loading, after the work, after saving.
        peak: peak bytes when the work ended.
    """
    started, imported, loaded, done, saved = moments
    figures = {
        "peer": name,
        "quantize_seconds": done - loaded,
        "with_load_seconds": done - imported,
        "import_seconds": imported - started,
        "save_seconds": saved - done,
        "cpu_seconds": time.process_time(),
        "peak_bytes": peak,
        "load_average": os.getloadavg()[0],
        "versions": _versions(),
    }
    print(json.dumps(figures), flush=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
