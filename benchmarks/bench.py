"""What the benchmarks share: the machine in words, the token rows, a result file that appears whole."""

from __future__ import annotations

import inspect
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from featherweight.core.chat import write_chat
from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.core.source import default_cache
from featherweight.core.store import Store

RESULTS = Path(__file__).parent / "results"
UNSEEN = ("descriptions", "docstrings")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and library versions; no names of hosts or folders."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": model, "cores": os.cpu_count(), "memory_gib": round(pages / 2**30), **versions()}


def save(name: str, command: str, facts: Mapping[str, Any]) -> Path:
    """Writes benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"command": command, "machine": machine(), **facts}, indent=1) + "\n")
    os.replace(draft, path)
    return path


def calibration_and_test(
    model: Model, calibration: int, test: int, length: int, progress: Progress
) -> tuple[TokenSet, TokenSet]:
    """Calibration rows of prose, code and chat; test rows of those and of two kinds that calibration never sees."""
    store = Store(default_cache() / "measurements")
    chat = write_chat(model, Run(store=store, progress=progress))
    splits = split_documents({**default_documents(), "chat": chat})
    unseen = {"descriptions": package_descriptions(), "docstrings": numpy_docstrings()}
    tuned = tokenize(splits["calibration"], model.tokenizer, calibration, length, "calibration")
    judged = tokenize({**splits["held-out"], **unseen}, model.tokenizer, test, length, "test")
    return tuned, judged


def package_descriptions() -> list[str]:
    """Long descriptions (mostly Markdown) of the installed packages."""
    texts = {each.metadata["Name"]: each.metadata.get_payload() or "" for each in metadata.distributions()}
    return [str(texts[name]) for name in sorted(texts, key=str) if len(str(texts[name])) > 2000]


def numpy_docstrings() -> list[str]:
    """Documentation of numpy's functions: numerical prose, formulas and examples."""
    import numpy as np

    found = {name: inspect.getdoc(value) or "" for name, value in vars(np).items() if callable(value)}
    return [found[name] for name in sorted(found) if len(found[name]) > 1500]
