"""The process that `measure.memory` starts: loads a model, serves a context, prints its own peak resident memory.

python -m featherweight.measure.memory_probe PATH CONTEXT THREADS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DECODED = 4
_TEXT = "The quick brown fox jumps over the lazy dog and runs away. "


def peak_resident() -> int:
    """The most bytes that this process has had resident so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


def serve_gguf(path: Path, context: int, threads: int) -> int:
    """Serves a context through llama.cpp; returns the baseline."""
    import xllamacpp  # noqa: F401

    from featherweight.measure.llama_runtime import serve

    baseline = peak_resident()
    with serve(path, context=context, threads=threads) as runtime:
        ids = runtime.tokenize(_TEXT * context)[: context - DECODED]
        runtime.decode(ids, DECODED)
    return baseline


def serve_folder(path: Path, context: int, threads: int) -> int:
    """Serves a context through PyTorch; returns the baseline."""
    import torch

    from featherweight.measure.torch_runtime import load_folder

    torch.set_num_threads(threads)
    baseline = peak_resident()
    module = load_folder(path)
    ids = torch.arange(context - DECODED)[None] % module.config.vocab_size
    with torch.inference_mode():
        module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=DECODED, do_sample=False, pad_token_id=0
        )
    return baseline


def main(path: Path, context: int, threads: int) -> None:
    """Prints baseline and peak as JSON."""
    serve = serve_gguf if path.suffix == ".gguf" else serve_folder
    baseline = serve(path, context, threads)
    print(json.dumps({"baseline": baseline, "peak": peak_resident()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
