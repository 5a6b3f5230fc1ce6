"""Entangled widths: the factorised form against the double sum over widths. `python benchmarks/joint_search.py`.

One block of SmolLM2-135M's shapes, every linear mixed over candidate widths of the residual stream, the FFN and the
groups, forward and backward to the mixing weights and to a low-rank correction, as a step of the search does it. Each
variant runs in processes of its own, in turns, so that peak memory is its own and slow minutes of a machine meet both;
the fastest repeat counts. "mixing and linears" also runs the linears on 512 tokens, which both variants pay alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch
from bench import save

from featherweight.core.memory import peak_memory
from featherweight.train.mixing import mixed, mixed_by_loop, prefixes

VARIANTS = ("factorised", "loop")
WIDTHS = {
    "hidden": (576, [384, 448, 512, 576]), "ffn": (1536, [512, 768, 1024, 1280, 1536]), "query": (576, [192, 384, 576]),
    "kv": (192, [64, 128, 192]),
}  # fmt: skip
LINEARS = {
    "q": ("query", "hidden"), "k": ("kv", "hidden"), "v": ("kv", "hidden"), "o": ("hidden", "query"),
    "gate": ("ffn", "hidden"), "up": ("ffn", "hidden"), "down": ("hidden", "ffn"),
}  # fmt: skip
RANK, TOKENS = 4, 512


def block() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each linear's weight and the factors of its correction."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, (out, into) in LINEARS.items():
        rows, columns = WIDTHS[out][0], WIDTHS[into][0]
        factors = (torch.randn(rows, RANK, generator=generator), torch.randn(RANK, columns, generator=generator))
        made[name] = (torch.randn(rows, columns, generator=generator), *(each.requires_grad_() for each in factors))
    return made


def step(variant: str, linears: dict[str, Any], inputs: dict[str, torch.Tensor] | None) -> None:
    """Mixes every linear and goes back to the mixing weights and the corrections."""
    shares = {axis: torch.zeros(len(options), requires_grad=True) for axis, (_, options) in WIDTHS.items()}
    mixing = {axis: each.softmax(0) for axis, each in shares.items()}
    lengths = {axis: mixing[axis] @ prefixes(options, size) for axis, (size, options) in WIDTHS.items()}
    total = torch.zeros(())
    for name, (out, into) in LINEARS.items():
        weight, up, down = linears[name]
        corrected = weight + up @ down
        if variant == "factorised":
            result = mixed(corrected, lengths[out], lengths[into])
        else:
            result = mixed_by_loop(corrected, WIDTHS[out][1], mixing[out], WIDTHS[into][1], mixing[into])
        total = total + (result.square().mean() if inputs is None else (inputs[into] @ result.T).square().mean())
    total.backward()


def measure(variant: str, with_linears: bool, repeats: int) -> dict[str, float]:
    """The fastest step in this process, and the process's peak memory above what it had before."""
    linears = block()
    inputs = {axis: torch.randn(TOKENS, size) for axis, (size, _) in WIDTHS.items()} if with_linears else None
    before = peak_memory()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        step(variant, linears, inputs)
        seconds.append(time.perf_counter() - started)
    return {"seconds": min(seconds), "peak_bytes": peak_memory() - before}


def in_a_process(variant: str, with_linears: bool, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--variant", variant, "--repeats", str(repeats)]
    if with_linears:
        command.append("--with-linears")
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def compare(with_linears: bool, repeats: int, rounds: int) -> dict[str, Any]:
    """Both variants in turns; the best of all rounds."""
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            found[variant].append(in_a_process(variant, with_linears, repeats))
    best: dict[str, Any] = {
        variant: {key: min(each[key] for each in runs) for key in ("seconds", "peak_bytes")}
        for variant, runs in found.items()
    }
    best["ratio"] = best["loop"]["seconds"] / best["factorised"]["seconds"]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, help="measure only this one, in this process")
    parser.add_argument("--with-linears", action="store_true", help="run the linears on 512 tokens as well")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.variant:
        print(json.dumps(measure(given.variant, given.with_linears, given.repeats)))
        return
    facts = {
        name: compare(with_linears, given.repeats, given.rounds)
        for name, with_linears in (("mixing", False), ("mixing and linears", True))
    }
    for name, each in facts.items():
        print(f"{name}: the double sum takes {each['ratio']:.1f} times as long (expected of mixing: at least 4)")
        for variant in VARIANTS:
            seconds, memory = each[variant]["seconds"], each[variant]["peak_bytes"]
            print(f"  {variant:10s} {seconds * 1e3:8.1f} ms a block and step, {memory / 1e6:7.1f} MB at its peak")
    save("joint_search", "python benchmarks/joint_search.py", facts)
    print("wrote joint_search.json")


if __name__ == "__main__":
    main()
