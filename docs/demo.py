"""Puts a run into the README: the table of what was measured, and the picture of its frontier.

    python docs/demo.py runs/demo

The table goes between the README's `<!-- demo -->` marks, those of the benchmarks between `<!-- benchmarks -->`. The
picture needs a Chromium on the path; without one it stays as it is.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from generate import ROOT, table

from featherweight.core.budget import format_bytes
from featherweight.report import charts

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "frontier.png"
_QUIET = {"displayModeBar": False}
RESULTS = ROOT / "benchmarks" / "results"


def demo_table(facts: Mapping[str, Any]) -> str:
    """Parent and result, measured on their files."""
    chosen, cost = facts["chosen"], facts["cost"]
    parent, quality = chosen["parent"], chosen["quality"]
    low, high = quality["ratio_interval"]
    rows = [
        ["exported file", format_bytes(parent["memory"]), f"**{format_bytes(chosen['memory'])}**"],
        ["resident, fresh process", format_bytes(parent["resident"]), format_bytes(chosen["resident"])],
        ["decode", *(f"{each['latency']['seconds'] * 1e3:.1f} ms a token" for each in (parent, chosen))],
        ["prompt", *(f"{each['latency']['prefill']:.0f} tokens/s" for each in (parent, chosen))],
        ["perplexity, held-out text", f"{quality['parent_perplexity']:.2f}", f"{quality['child_perplexity']:.2f}"],
        ["quality (ratio of perplexities)", "100 %", f"{quality['ratio']:.1%} (95 %: {low:.1%} to {high:.1%})"],
        ["KL to the parent", "0", f"{quality['kl']:.4f} nats a token"],
        ["same most likely token", "100 %", f"{quality['agreement']:.1%}"],
    ]
    spent = f"{cost['seconds'] / 60:.1f} minutes and {format_bytes(cost['peak_memory'])} of memory"
    cores = facts["environment"]["processors"]
    shown = table(["measured on the file", "parent, bf16 GGUF", "result"], rows)
    return f"{shown}\n\nIt took {spent} on {cores} CPU cores. The recipe: `{chosen['steps']}`."


def bench_table() -> str:
    """One line a benchmark that was run."""
    rows = []
    if (found := _result("same_bytes")) is not None:
        for name in ("preset", "imatrix"):
            gains = {size: gain["all"] for size, gain in found["lower_by"].items() if size.endswith(f" {name}")}
            shown = ", ".join(f"{gain:.0%} ({size.split()[0]})" for size, gain in gains.items())
            rival = "llama.cpp's presets" + (" with an importance matrix" if name == "imatrix" else "")
            rows.append(["`same_bytes.py`", f"mean KL at the bytes of {rival}, five domains: lower by", shown])
    if (found := _result("gptq_peers")) is not None:
        for each in found["results"]:
            if each["passed"] is not None:
                what = f"GPTQ {each['setting']} against the better of GPTQModel and llm-compressor"
                low, high = each["nll_difference"]
                ratios = f"time {each['time_ratio']:.2f} x, memory {each['memory_ratio']:.2f} x"
                rows.append(["`gptq_peers.py`", what, f"{ratios}, NLL {low:+.4f} to {high:+.4f}"])
    if (found := _result("pruning_peers")) is not None:
        for each in found["results"]:
            against = each["against llmcompressor"]
            low, high = against["nll_difference"]
            what = f"{each['method']}, 50 % {each['pattern']}, against llm-compressor"
            ratios = f"time {against['time_ratio']:.2f} x, memory {against['memory_ratio']:.2f} x"
            rows.append(["`pruning_peers.py`", what, f"{ratios}, NLL {low:+.4f} to {high:+.4f}"])
    if (found := _result("joint_search")) is not None:
        mixing = found["mixing"]
        memory = mixing["loop"]["peak_bytes"] / mixing["factorised"]["peak_bytes"]
        what = "mixing entangled widths: the double sum against the factorised form"
        rows.append(["`joint_search.py`", what, f"{mixing['ratio']:.1f} x the time, {memory:.1f} x the memory"])
    if (found := _result("fit")) is not None:
        worst = max(each["regret"] for each in found["grids"])
        rows.append(["`fit.py`", "the planner against running every candidate, three budgets",
            f"{found['share_run']:.0%} of the runs, at most {worst:.2%} more perplexity"])  # fmt: skip
    if (found := _result("adapter_training")) is not None:
        checks = {name: each["found"] for name, each in found["checks"].items()}
        for shown, ours, peer in (("LoRA r 16", "our", "plain"), ("the same under a limit", "limited", "checkpointed")):
            memory = found["peak_bytes"]["featherweight" if ours == "our" else "featherweight-limited"]
            theirs = found["peak_bytes"]["peft" if ours == "our" else "peft-checkpointed"]
            what = f"training SmolLM2-135M, {shown}, against PEFT and the Trainer, {peer}"
            ratios = f"step {checks[f'{ours} step / {peer} step']:.2f} x, memory {memory / theirs:.2f} x"
            rows.append(["`adapter_training.py`", what, f"{ratios}, same losses"])
    if (found := _result("rank_curve")) is not None:
        areas = {each["variant"]: each["aurac"]["v2"] for each in found["rows"]}
        names = ("LoRA, truncated by SVD", "nested losses", "paper, weights kept", "DyLoRA", "paper")
        rows.append(["`rank_curve.py`", "area under minus the loss at ranks 1 to 16, one adapter for all of them",
            "; ".join(f"{areas[name]:.3f} ({name})" for name in names)])  # fmt: skip
    if (found := _result("gate_power")) is not None:
        for margin in ("2%", "5%"):
            passes = found[f"passes of a 5-point loss, margin {margin}"]
            rows.append(["`gate_power.py`", f"children that lost 5 points and pass a margin of {margin}",
                f"{passes['rate']:.1%} of {passes['pairs']:,} simulated pairs"])  # fmt: skip
    if (found := _result("merge_peers")) is not None:
        for each in found["results"]:
            ratios = f"time {each['seconds']:.2f} x, memory {each['peak_bytes']:.2f} x"
            rows.append(["`merge_peers.py`", f"{each['method']} of three fine-tunes, against mergekit",
                f"{ratios}, tensors within {each['largest_difference']:.0e}"])  # fmt: skip
    return table(["benchmark", "what", "result"], rows)


def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def picture(facts: Mapping[str, Any]) -> bool:
    """Draws the frontier with a headless browser; False where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return False
    PICTURE.parent.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        page = Path(folder) / "frontier.html"
        page.write_text(
            charts.frontier(facts).to_html(include_plotlyjs=True, default_width="900px", config=_QUIET), "utf-8"
        )
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000",
             "--window-size=920,440", f"--screenshot={PICTURE}", page.as_uri()],
            check=True, capture_output=True,
        )  # fmt: skip
    return True


def put(text: str, mark: str, content: str) -> str:
    """Replaces what is between two marks."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)", re.DOTALL)
    assert pattern.search(text), f"the README has no marks called {mark}"
    return pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", text)


def main() -> int:
    facts = json.loads((Path(sys.argv[1]) / "result.json").read_text("utf-8"))
    text = put(README.read_text("utf-8"), "demo", demo_table(facts))
    README.write_text(put(text, "benchmarks", bench_table()), "utf-8")
    print("README.md written" + (", picture drawn" if picture(facts) else "; no Chromium, no picture"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
