"""Peak resident memory of a fresh process that loads a model and serves a context of tokens.

Resident means what the operating system counts as such: pages of a file mapped into memory count as soon as they are
touched, and a served model touches all of its weights. So the figure is what the device must have free to run at full
speed, not what would crash it: a system under pressure can drop clean file pages and read them again, slowly.

Fewer bytes in the file are not always fewer in memory: on CPUs llama.cpp copies Q4_0 and a few other block types into a
layout of its own while it loads, and the copy counts beside the pages of the file. SmolLM2-135M at 512 tokens: Q8_0, a
file of 145 MB, 238 MB resident; Q4_0, a file of 78 MB, 246 MB (171 MB without the copy, and slower decoding).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from featherweight.core.errors import CheckpointError
from featherweight.measure.latency import Runtime, runtime_of


@dataclass(frozen=True)
class Memory:
    """Resident bytes.

    Attributes:
        runtime: what computed.
        context: tokens that were served.
        baseline: of the process with its libraries imported and nothing loaded.
        peak: the most it ever had.
    """

    runtime: Runtime
    context: int
    baseline: int
    peak: int


def resident_memory(path: Path, context: int = 512, threads: int = 2) -> Memory:
    """Measures a .gguf file in llama.cpp or a Hugging Face folder in PyTorch, in a process of its own.

    Args:
        path: the file or folder.
        context: tokens to make room for and to fill, the last few by decoding.
        threads: CPU threads.

    Raises:
        CheckpointError: the process failed; the end of its error output is in the message.
    """
    command = [sys.executable, "-m", "featherweight.measure.memory_probe", str(path), str(context), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise CheckpointError(str(path), f"could not be served in a fresh process ({lines[0]})", "export it again")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Memory(runtime_of(path), context, int(found["baseline"]), int(found["peak"]))
