"""W4 GPTQ by us, by GPTQModel and by llm-compressor: perplexity, wall time and peak memory on identical tokens.

    python benchmarks/gptq_peers.py

Each peer has its own virtual environment, `.venv-<peer>` in the repository, made from `peers/<peer>.txt` the first
time; one that cannot be installed is left out with the reason. Every run is a fresh process. All are judged by one
evaluation: the weights that each saved format gives back, as float32, in the same model. Groups of 128 do not divide
SmolLM2's rows of 576, so "g128" is 128 in down_proj and 64 elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import competition, difference, in_fresh_process, judge, row
from rich.console import Console
from rich.table import Table

from featherweight.core.budget import format_bytes
from featherweight.core.data import TokenSet
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.measure.quality import Scores

PEERS = ("llmcompressor", "gptqmodel")
SETTINGS = {"g64": (64, 64), "g128": (64, 128)}
REPEATS = 1
MOST_TIME, MOST_MEMORY = 0.7, 0.8


def quantize(
    peer: str, python: Path, parent: Model, tokens: Path, out: Path, groups: tuple[int, int]
) -> dict[str, Any]:
    """One run in a fresh process; the figures that it prints last."""
    arguments = [str(parent.folder), str(tokens), str(out), "--group", str(groups[0]), "--down-group", str(groups[1])]
    return in_fresh_process(peer, python, f"run_{peer}.py", out, arguments)


def compete(
    setting: str, takers: Mapping[str, Path], parent: Model, tokens: Path, judged: TokenSet, folder: Path
) -> dict[str, Any]:
    """All peers at one setting."""
    runs: dict[str, list[dict[str, Any]]] = {peer: [] for peer in takers}
    for repeat in range(REPEATS):
        for peer, python in takers.items():
            out = folder / f"{setting}-{peer}-{repeat}"
            runs[peer].append(quantize(peer, python, parent, tokens, out, SETTINGS[setting]))
            print(setting, peer, runs[peer][-1], file=sys.stderr, flush=True)
    run = Run()  # keeps what the parent computes
    scores = {peer: judge(parent, folder / f"{setting}-{peer}-0", judged, run) for peer in takers}
    rows = {peer: row(scores[peer], runs[peer]) for peer in takers}
    return {"setting": setting, "rows": rows, **verdict(rows, scores)}


def verdict(rows: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Scores]) -> dict[str, Any]:
    rivals = [peer for peer in rows if peer != "featherweight"]
    if not rivals:
        return {"passed": None}
    ours = rows["featherweight"]
    best = min(rivals, key=lambda peer: rows[peer]["perplexity"])
    interval = difference(scores["featherweight"], scores[best])
    time = ours["seconds"] / min(rows[peer]["seconds"] for peer in rivals)
    memory = ours["peak_bytes"] / min(rows[peer]["peak_bytes"] for peer in rivals)
    return {
        "better_peer": best,
        "nll_difference": interval,
        "time_ratio": time,
        "memory_ratio": memory,
        "passed": interval[0] <= 0 and time <= MOST_TIME and memory <= MOST_MEMORY,
    }


def main() -> int:
    results, reasons = competition("gptq_peers", PEERS, SETTINGS, compete)
    show(results, reasons)
    passed = all(each["passed"] is not False for each in results)
    Console().print(f"wrote gptq_peers.json; {'passed' if passed else 'FAILED'}")
    return 0 if passed else 1


def show(results: list[dict[str, Any]], reasons: Mapping[str, str]) -> None:
    console = Console()
    table = Table(box=None)
    for title in ("setting", "by", "perplexity", "KL", "seconds", "peak memory"):
        table.add_column(title, justify="right")
    for each in results:
        for peer, facts in each["rows"].items():
            table.add_row(
                each["setting"], peer, f"{facts['perplexity']:.3f}", f"{facts['kl']:.4f}", f"{facts['seconds']:.1f}",
                format_bytes(facts["peak_bytes"]),
            )  # fmt: skip
    console.print(table)
    for each in results:
        if each["passed"] is not None:
            low, high = each["nll_difference"]
            console.print(
                f"{each['setting']}: NLL {low:+.4f} to {high:+.4f} against {each['better_peer']}, time"
                f" {each['time_ratio']:.2f} x the fastest, memory {each['memory_ratio']:.2f} x the leanest"
            )
    for peer, reason in reasons.items():
        console.print(f"{peer} was left out: {reason}")


if __name__ == "__main__":
    sys.exit(main())
