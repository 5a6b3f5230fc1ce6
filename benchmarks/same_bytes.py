"""At the byte size of llama.cpp's presets: mean KL divergence to the parent of the preset, the preset with an
importance matrix, and ours, under the same packing kernels.

    python benchmarks/same_bytes.py

Presets are made as llama.cpp's quantizer makes them: the same types for the same tensors (its rules for this
architecture, with its replacements for rows that are no multiple of 256), rounded by its own kernels. Ours is
`mixed-precision` at the bytes of the preset's file, then `gptq`. Calibration reads prose, code and chat; two of the
five test domains are of a kind that calibration never sees.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from bench import UNSEEN, calibration_and_test, save
from rich.console import Console
from rich.table import Table

from featherweight.cli.progress import TerminalProgress
from featherweight.core.budget import format_bytes
from featherweight.core.data import TokenSet
from featherweight.core.model import Model
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.source import open_model
from featherweight.core.steps import apply_recipe
from featherweight.core.technique import build
from featherweight.export.exporters import exporter
from featherweight.measure.quality import Quality, by_domain, compare, summarize

PRESETS = ("Q4_0", "Q4_K_M", "Q5_K_M")
BASE = {"Q4_0": "Q4_0", "Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
LEAST = {"preset": 0.25, "imatrix": 0.15}


def more_bits(block: int, blocks: int) -> bool:
    """The blocks to which llama.cpp's _M presets give more: the first and last eighth, and every third between."""
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


def preset(name: str, blocks: int, importance: bool) -> dict[str, Any]:
    """Fields of a quantizer that gives every tensor the type of a preset."""
    overrides: dict[str, str] = {}
    for block in range(blocks):
        part = f"model.layers.{block}"
        if name.endswith("_M") and more_bits(block, blocks):
            overrides |= {f"{part}.self_attn.v_proj.weight": "Q6_K", f"{part}.mlp.down_proj.weight": "Q6_K"}
        if name == "Q4_0" and importance and block < blocks // 8:
            overrides[f"{part}.mlp.down_proj.weight"] = "Q4_1"
    return {"format": BASE[name], "embedding": "Q6_K", "overrides": overrides}


def measure(parent: Model, child: Model, tokens: TokenSet, run: Run) -> tuple[Quality, Mapping[str, Quality]]:
    scores = compare(parent, child, tokens, run)
    return summarize(scores), by_domain(scores)


def main() -> int:
    parent, progress = open_model("smollm2-135m"), TerminalProgress()
    tuned, judged = calibration_and_test(parent, 36, 40, 256, progress)
    run = Run(tuned, progress=progress, parent=parent)
    writer = exporter("gguf")
    rows: list[dict[str, Any]] = []
    for name in PRESETS:
        plain = build("rtn", preset(name, 30, importance=False)).apply(parent, run)
        weighted = build("imatrix", preset(name, 30, importance=True)).apply(parent, run)
        for label, child in (("preset", plain), ("imatrix", weighted)):
            rows.append(row(name, label, writer.file_bytes(child), *measure(parent, child, judged, run)))
        started = time.perf_counter()
        limit = writer.file_bytes(plain)
        recipe = Recipe((build("mixed-precision", {"memory": limit - overhead(parent)}), build("gptq", {})))
        ours = apply_recipe(recipe, parent, run, None)[-1].model
        seconds = time.perf_counter() - started
        rows.append(
            {**row(name, "ours", writer.file_bytes(ours), *measure(parent, ours, judged, run)), "seconds": seconds}
        )
    verdict = judge(rows)
    show(rows, verdict)
    facts = {"calibration_tokens": tuned.count, "test_tokens": judged.count, "unseen": UNSEEN, "rows": rows, **verdict}
    path = save("same_bytes", "python benchmarks/same_bytes.py", facts)
    Console().print(f"wrote {path.name}; {'passed' if verdict['passed'] else 'FAILED'}")
    return 0 if verdict["passed"] else 1


def overhead(parent: Model) -> int:
    """Bytes of a file that are not tensors, alignment at its worst."""
    writer = exporter("gguf")
    stored = dict.fromkeys(parent.architecture.quantizable(), "BF16")
    tensors = sum(2 * each.numel() for each in (parent.tensor(name) for name in stored))
    vectors = sum(4 * parent.tensor(name).numel() for name in parent.entries if name not in stored)
    return writer.file_bytes(parent, stored) - tensors - vectors + 32 * len(parent.entries)


def row(preset_name: str, label: str, size: int, total: Quality, domains: Mapping[str, Quality]) -> dict[str, Any]:
    return {
        "size_of": preset_name,
        "made_by": label,
        "bytes": size,
        "kl": total.kl,
        "kl_interval": total.kl_interval,
        "ratio": total.ratio,
        "domains": {name: each.kl for name, each in domains.items()},
    }


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How much lower ours is, over all domains and in each, and whether that is what was promised."""
    table = {(each["size_of"], each["made_by"]): each for each in rows}
    lower: dict[str, Any] = {}
    passed = True
    for name in PRESETS:
        ours = table[name, "ours"]
        for rival, least in LEAST.items():
            other = table[name, rival]
            gains = {domain: 1 - ours["domains"][domain] / value for domain, value in other["domains"].items()}
            lower[f"{name} {rival}"] = {"all": 1 - ours["kl"] / other["kl"], **gains}
            passed &= min(lower[f"{name} {rival}"].values()) >= least and ours["bytes"] <= other["bytes"]
    return {"lower_by": lower, "passed": passed}


def show(rows: list[dict[str, Any]], verdict: Mapping[str, Any]) -> None:
    table = Table(box=None, title="mean KL to the parent, nats a token")
    domains = list(rows[0]["domains"])
    for title in ("size of", "made by", "bytes", "all", *domains):
        table.add_column(title, justify="right")
    for each in rows:
        cells = [f"{each['kl']:.4f}", *(f"{each['domains'][domain]:.4f}" for domain in domains)]
        table.add_row(each["size_of"], each["made_by"], format_bytes(each["bytes"]), *cells)
    Console().print(table)
    gains = Table(box=None, title="ours is lower by")
    for title in ("than", "all", *domains):
        gains.add_column(title, justify="right")
    for name, gain in verdict["lower_by"].items():
        gains.add_row(name, *(f"{gain[key]:.0%}" for key in ("all", *domains)))
    Console().print(gains)


if __name__ == "__main__":
    sys.exit(main())
