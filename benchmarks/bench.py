"""What the benchmarks share: the machine in words, the token rows, peers in fresh processes, a result file that
appears whole.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.torch import load_file

from featherweight.cli.progress import TerminalProgress
from featherweight.core.chat import write_chat
from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.receipt import versions
from featherweight.core.run import Run
from featherweight.core.source import default_cache, open_model
from featherweight.core.store import Store
from featherweight.measure.quality import Scores, compare, resampled_means, summarize

HERE = Path(__file__).parent
RESULTS = HERE / "results"
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
    found = {name: inspect.getdoc(value) or "" for name, value in vars(np).items() if callable(value)}
    return [found[name] for name in sorted(found) if len(found[name]) > 1500]


def interpreters(peers: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """The Python of everybody who takes part, ours first, and why the others do not.

    A peer's virtual environment, `.venv-<peer>` in the repository, is made from `peers/<peer>.txt` the first time.
    """
    found, reasons = {"featherweight": Path(sys.executable)}, {}
    for peer in peers:
        folder = HERE.parent / f".venv-{peer}"
        python = folder / "bin" / "python"
        if not (folder / ".ready").exists():
            wanted = str(HERE / "peers" / f"{peer}.txt")
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            done = subprocess.run(
                [str(python), "-m", "pip", "install", "-q", "-r", wanted], capture_output=True, text=True
            )
            if done.returncode:
                reasons[peer] = done.stderr.strip().splitlines()[-1]
                continue
            (folder / ".ready").touch()
        found[peer] = python
    return found, reasons


def competition(
    name: str, peers: Sequence[str], settings: Iterable[Any], compete: Callable[..., dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Everybody at every setting, on the embedded model and the same tokens; results, and why peers were left out.

    Both are also written to benchmarks/results/<name>.json.

    Args:
        name: of the benchmark.
        peers: who is asked to take part beside us.
        settings: what is compared.
        compete: called with a setting, the Python of everybody by name, the parent, the file of calibration tokens,
            the test rows and a folder for results; gives the result of the setting.
    """
    takers, reasons = interpreters(peers)
    parent = open_model("smollm2-135m")
    tuned, judged = calibration_and_test(parent, 36, 40, 256, TerminalProgress())
    with TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.json"
        tokens.write_text(json.dumps(tuned.ids.tolist()), "utf-8")
        results = [compete(setting, takers, parent, tokens, judged, Path(folder)) for setting in settings]
    facts = {"left_out": reasons, "calibration_tokens": tuned.count, "test_tokens": judged.count, "results": results}
    save(name, f"python benchmarks/{name}.py", facts)
    return results, reasons


def in_fresh_process(peer: str, python: Path, script: str, out: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """One run of `peers/<script>`; the figures that it prints last."""
    command = [str(python), str(HERE / "peers" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, check=False)
    if done.returncode:
        raise SystemExit(f"{peer} failed:\n{done.stderr[-3000:]}")
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"peer"')]  # peers print as well
    return dict(json.loads(line))


def judge(parent: Model, out: Path, tokens: TokenSet, run: Run) -> Scores:
    """The parent with the weights that a peer's saved result gives back, compared with it on the same tokens."""
    return compare(parent, parent.with_changes(load_file(out / "dequantized.safetensors")), tokens, run)


def difference(ours: Scores, theirs: Scores) -> list[float]:
    """95 % bootstrap interval over documents of our NLL minus theirs, nats a token."""
    means = resampled_means((ours.child_nll - theirs.child_nll).mean(1), ours.tokens)
    return [float(each) for each in np.quantile(means, [0.025, 0.975])]


def row(scores: Scores, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a result file says of one peer at one setting."""
    quality = summarize(scores)
    return {
        "perplexity": quality.child_perplexity,
        "kl": quality.kl,
        "seconds": min(each["with_load_seconds"] for each in runs),
        "peak_bytes": min(each["peak_bytes"] for each in runs),
        "runs": list(runs),
    }
