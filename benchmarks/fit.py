"""`fit` end to end, and what its planner misses: seconds, peak memory, candidates run, regret at three budgets.

    python benchmarks/fit.py [end-to-end] [regret] [--keep FOLDER]

Both parts by default; the other part of the result stays. With --keep an interrupted grid goes on where it was, and the
run is FOLDER/run.

Regret: every candidate of the planner's grid (each cut with each way of rounding at the budget's bytes) is applied and
judged on held-out rows; the planner's choice is compared with the best of them in hindsight, in perplexity. Both use
the same evaluator, rows and seed. What the planner ran counts whole, first looks and smaller sizes included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import RESULTS, save
from rich.console import Console
from rich.table import Table

from featherweight.cli.progress import TerminalProgress
from featherweight.core.budget import Budget, format_bytes
from featherweight.core.recipe import Recipe
from featherweight.core.run import Run
from featherweight.core.store import Store
from featherweight.export.exporters import exporter
from featherweight.measure.quality import Quality, compare, summarize
from featherweight.plan.candidates import candidates
from featherweight.plan.choose import ranked
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.goal import Goal
from featherweight.plan.planner import make_plan
from featherweight.plan.study import Study, bf16_file_bytes
from featherweight.verbs.prepare import Rows, Settings, cache_folder, open_parent, token_rows

END_TO_END = ("--memory", "92MB", "--quality", "85%", "--latency", "30ms")
BUDGETS = ("68MB", "75MB", "92MB")
SETTINGS = Settings(length=128, calibration_rows=12, selection_rows=15, held_out_rows=30)
MOST_REGRET, MOST_RUN = 0.02, 0.35


def end_to_end(kept: Path | None) -> dict[str, Any]:
    """One `fit` in a fresh process, on a machine that has the model and its chat in the cache."""
    with TemporaryDirectory() as folder:
        out = (kept or Path(folder)) / "run"
        started = time.perf_counter()
        command = [sys.executable, "-m", "featherweight", "fit", "smollm2-135m", *END_TO_END, "--out", str(out)]
        done = subprocess.run(command, check=False)
        seconds = time.perf_counter() - started
        facts = json.loads((out / "result.json").read_text("utf-8"))
    ran = [trial for trial in facts["trials"] if trial["status"] != "expected"]
    return {
        "budget": " ".join(END_TO_END),
        "met": done.returncode == 0,
        "seconds": round(seconds, 1),
        "peak_memory": facts["cost"]["peak_memory"],
        "candidates_considered": len(facts["trials"]),
        "candidates_run": len(ran),
        "tokens": facts["cost"]["tokens"],
    }


class Grid:
    """One budget: the planner's choice, and every candidate judged on the held-out rows."""

    def __init__(self, rows: Rows, run: Run, memory: str, folder: Path) -> None:
        assert run.parent is not None
        writer = exporter("gguf")
        goal = Goal.of(Budget(memory=memory), bf16_file_bytes(run.parent, writer))
        self.memory, self.rows, self.run = memory, rows, run
        self.study = Study(run.parent, writer, goal, rows.calibration, rows.selection, rows.held_out, run)
        self.evaluator = Evaluator(
            run.parent, run, rows.selection, SETTINGS.probe_rows, writer.file_bytes, folder=folder / "steps"
        )

    def judge(self, recipe: Recipe) -> Quality:
        """Quality on the held-out rows, kept in the store."""
        facts = {**self.evaluator.facts(recipe), "judged": self.rows.held_out.digest}

        def measure() -> dict[str, Any]:
            child = self.evaluator.child(recipe)
            return summarize(compare(self.study.parent, child, self.rows.held_out, self.run)).to_dict()

        return Quality.from_dict(self.run.store.json("judged", facts, measure))

    def result(self) -> dict[str, Any]:
        plan = make_plan(self.study, self.evaluator, 0, None)
        ran = [trial for trial in plan.trials if trial.status != "expected"]
        choice, _ = ranked(plan.trials, self.study.goal, self.study.parent_bytes)[0]
        grid = candidates(self.study.prior, self.study.sizes()[:1])
        judged = []
        for candidate in grid:
            quality = self.judge(candidate.recipe)
            self.run.progress.say(
                f"{self.memory}: {candidate.cut}, {candidate.rounding}: {quality.child_perplexity:.3f}"
            )
            judged.append(
                (quality.child_perplexity, f"{candidate.cut}, {candidate.rounding}", candidate.kl, quality.kl)
            )
        best = min(judged)
        chosen = self.judge(choice.candidate.recipe).child_perplexity
        return {
            "memory": self.memory,
            "grid": len(grid),
            "run": len(ran),
            "share_run": len(ran) / len(grid),
            "chosen": f"{choice.candidate.cut}, {choice.candidate.rounding}",
            "perplexity": chosen,
            "best_in_hindsight": best[1],
            "best_perplexity": best[0],
            "regret": chosen / best[0] - 1,
            "every": [
                {"candidate": name, "expected_kl": expected, "kl": kl, "perplexity": perplexity}
                for perplexity, name, expected, kl in sorted(judged)
            ],
        }


def regrets(progress: TerminalProgress, kept: Path | None) -> list[dict[str, Any]]:
    parent = open_parent("smollm2-135m")
    rows = token_rows(parent, None, SETTINGS, progress, cache_folder(None))
    with TemporaryDirectory() as name:
        folder = kept or Path(name)
        run = Run(rows.calibration, parent=parent, progress=progress, store=Store(folder / "measurements"))
        return [Grid(rows, run, memory, folder).result() for memory in BUDGETS]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("parts", nargs="*", default=["end-to-end", "regret"])
    arguments.add_argument("--keep", type=Path)
    asked = arguments.parse_args()
    path = RESULTS / "fit.json"
    facts = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if "end-to-end" in asked.parts:
        facts["end_to_end"] = end_to_end(asked.keep)
    if "regret" in asked.parts:
        facts |= regret(asked.keep)
    facts["passed"] = facts.get("end_to_end", {}).get("met", False) and facts.get("regret_passed", False)
    save("fit", "python benchmarks/fit.py", {key: facts[key] for key in facts if key not in ("command", "machine")})
    show(facts)
    Console().print(f"wrote {path.name}; {'passed' if facts['passed'] else 'FAILED'}")
    return 0 if facts["passed"] else 1


def regret(kept: Path | None) -> dict[str, Any]:
    """All budgets together: where a budget needs cuts the grid is small, and one run weighs much."""
    grids = regrets(TerminalProgress(), kept)
    share = sum(each["run"] for each in grids) / sum(each["grid"] for each in grids)
    passed = share <= MOST_RUN and all(each["regret"] <= MOST_REGRET for each in grids)
    return {"settings": SETTINGS.to_dict(), "grids": grids, "share_run": share, "regret_passed": passed}


def show(facts: dict[str, Any]) -> None:
    console = Console()
    if (whole := facts.get("end_to_end")) is not None:
        console.print(
            f"fit {whole['budget']}: {whole['seconds']:.0f} s, {format_bytes(whole['peak_memory'])} at most,"
            f" {whole['candidates_run']} of {whole['candidates_considered']} candidates run"
        )
    if "grids" not in facts:
        return
    table = Table(box=None)
    for title in ("memory", "run", "of", "chosen", "perplexity", "best in hindsight", "its perplexity", "regret"):
        table.add_column(title, justify="right")
    for each in facts["grids"]:
        table.add_row(
            each["memory"], str(each["run"]), str(each["grid"]), each["chosen"], f"{each['perplexity']:.3f}",
            each["best_in_hindsight"], f"{each['best_perplexity']:.3f}", f"{each['regret']:.2%}",
        )  # fmt: skip
    console.print(table)
    console.print(f"{facts['share_run']:.0%} of all candidates were run")


if __name__ == "__main__":
    sys.exit(main())
