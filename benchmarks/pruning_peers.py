"""SparseGPT and Wanda by us and by llm-compressor: perplexity, wall time and peak memory on identical tokens.

    python benchmarks/pruning_peers.py

Half of the weights of every linear of the blocks become zero, anywhere or two in every four columns. Every run is a
fresh process, llm-compressor's in its own virtual environment (`bench.interpreters`); all are judged by one evaluation
of the weights that each saved folder gives back. The shares of zeros are counted there, not believed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import competition, difference, in_fresh_process, judge, row
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from featherweight.core.budget import format_bytes
from featherweight.core.data import TokenSet
from featherweight.core.model import Model
from featherweight.core.run import Run

PEERS = ("llmcompressor",)
SETTINGS = [(method, pattern) for method in ("sparsegpt", "wanda") for pattern in ("unstructured", "2:4")]


def compete(
    setting: tuple[str, str], takers: Mapping[str, Path], parent: Model, tokens: Path, judged: TokenSet, folder: Path
) -> dict[str, Any]:
    """Everybody at one setting."""
    method, pattern = setting
    rows, scores = {}, {}
    run = Run()  # keeps what the parent computes
    for peer, python in takers.items():
        out = folder / f"{method}-{pattern.replace(':', 'of')}-{peer}"
        arguments = [str(parent.folder), str(tokens), str(out), "--method", method, "--pattern", pattern]
        figures = in_fresh_process(peer, python, f"prune_{peer}.py", out, arguments)
        print(method, pattern, peer, figures, file=sys.stderr, flush=True)
        scores[peer] = judge(parent, out, judged, run)
        rows[peer] = {**row(scores[peer], [figures]), **zeros(out / "dequantized.safetensors")}
    result: dict[str, Any] = {"method": method, "pattern": pattern, "rows": rows}
    for peer in rows:
        if peer != "featherweight":
            ours, theirs = rows["featherweight"], rows[peer]
            result[f"against {peer}"] = {
                "nll_difference": difference(scores["featherweight"], scores[peer]),
                "time_ratio": ours["seconds"] / theirs["seconds"],
                "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
            }
    return result


def zeros(path: Path) -> dict[str, Any]:
    """The share of zeros, and whether no four neighbouring columns hold more than two other values."""
    count, total, two_of_four = 0, 0, True
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  no dictionary
            gone = file.get_tensor(name) == 0
            count, total = count + int(gone.sum()), total + gone.numel()
            two_of_four = two_of_four and int(gone.reshape(-1, 4).sum(1).min()) >= 2
    return {"zeros": count / total, "two_of_four": two_of_four}


def main() -> int:
    results, reasons = competition("pruning_peers", PEERS, SETTINGS, compete)
    show(results, reasons)
    Console().print("wrote pruning_peers.json")
    return 0


def show(results: Sequence[Mapping[str, Any]], reasons: Mapping[str, str]) -> None:
    console = Console()
    table = Table(box=None)
    for title in ("method", "pattern", "by", "perplexity", "KL", "zeros", "seconds", "peak memory"):
        table.add_column(title, justify="right")
    for each in results:
        for peer, facts in each["rows"].items():
            table.add_row(
                each["method"], each["pattern"], peer, f"{facts['perplexity']:.3f}", f"{facts['kl']:.4f}",
                f"{facts['zeros']:.4f}", f"{facts['seconds']:.1f}", format_bytes(facts["peak_bytes"]),
            )  # fmt: skip
    console.print(table)
    for each in results:
        for peer in PEERS:
            if found := each.get(f"against {peer}"):
                low, high = found["nll_difference"]
                console.print(
                    f"{each['method']} {each['pattern']}: NLL {low:+.4f} to {high:+.4f} against {peer}, time"
                    f" {found['time_ratio']:.2f} x, memory {found['memory_ratio']:.2f} x"
                )
    for peer, reason in reasons.items():
        console.print(f"{peer} was left out: {reason}")


if __name__ == "__main__":
    sys.exit(main())
