"""Merging by us and by mergekit: equal tensors, wall time and peak memory of the whole command, and the way back.

    python benchmarks/merge_peers.py
    python benchmarks/merge_peers.py --repeats 1 --methods linear     # a dry run, whose result is not kept

SmolLM2-135M in float32 and three fine-tunes of it: two random changes of every tensor with a cosine of 0.3, and a
merged LoRA of rank 16 on all linears, each 2 % of the weights in size. Both sides run the same mergekit recipe as a
command in a fresh process, in turns: `mergekit-yaml`, in its own environment made from `peers/mergekit.txt`, and
`featherweight merge --recipe`, which also hashes every model, prints the cosines first, and writes its ledger and page.
Peak memory is the largest resident set of the process. mergekit maps its input files, whose pages count there although
the system may take them back, so memory that is the process's own is given as well (sampled).

mergekit sorts with torch's unstable sort: of values whose sizes are equal at TIES's cut it keeps arbitrary ones. Two
ways of breaking a tie differ by a whole change, so the fine-tunes are made without ties at the cut; how many values
differ when there are ties is reported, and that each of them is tied.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from bench import interpreters, save
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

import featherweight as fw
from featherweight.core.budget import format_bytes
from featherweight.core.model import Model, copy_companions

PEER, OURS = "mergekit", "featherweight"
METHODS = ("linear", "task_arithmetic", "ties")
WEIGHTS, DENSITY, SHARED, SIZE, RANK = (0.5, 0.3, 0.4), 0.5, 0.3, 0.02, 16
MOST_TIME, MOST_MEMORY, MOST_DIFFERENCE = 0.8, 0.8, 1e-6
BACK = ("linear", "task-arithmetic", "ties", "dare", "orthogonal-deltas")
WEIGHTS_FILE = "model.safetensors"


def write_fine_tunes(base: Model, folder: Path, cut_ties: bool) -> list[Path]:
    """Three fine-tunes as float32 folders; with `cut_ties` TIES drops no value as large as one that it keeps."""
    folders = []
    for number, name in enumerate("abc"):
        target = folder / f"ft-{name}"
        target.mkdir(parents=True)
        tensors = {tensor: _tuned(base, tensor, number, cut_ties) for tensor in sorted(base.entries)}
        save_file(tensors, target / WEIGHTS_FILE, metadata={"format": "pt"})
        (target / "config.json").write_bytes((base.folder / "config.json").read_bytes())
        copy_companions(base.folder, target)
        folders.append(target)
    return folders


def _tuned(base: Model, name: str, number: int, cut_ties: bool) -> torch.Tensor:
    value = base.tensor(name)
    generator = torch.Generator().manual_seed(1000 * number + sorted(base.entries).index(name))
    size = SIZE * float(value.std().clamp(min=1e-3))
    if number == 2:
        if name not in base.architecture.linears():
            return value
        rows, columns = value.shape
        change = torch.randn(rows, RANK, generator=generator) @ torch.randn(RANK, columns, generator=generator)
        change *= size / RANK**0.5
    else:
        common = torch.randn(value.shape, generator=torch.Generator().manual_seed(sorted(base.entries).index(name)))
        own = torch.randn(value.shape, generator=generator)
        change = size * ((1 - SHARED) ** 0.5 * own + SHARED**0.5 * common)
    return without_ties(value, value + change) if cut_ties else value + change


def without_ties(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Moves values a unit in the last place towards the base where TIES drops them and keeps others of their size."""
    tuned = tuned.clone()
    sizes = (tuned - base).abs().reshape(-1)
    count = max(1, int(DENSITY * len(sizes)))
    least = sizes.kthvalue(len(sizes) - count + 1).values
    tied = (sizes == least).nonzero().reshape(-1)
    spare = tied[count - int((sizes > least).sum()) :]
    flat, own = tuned.reshape(-1), base.reshape(-1)
    flat[spare] = torch.nextafter(flat[spare], own[spare])
    return tuned


def write_recipe(method: str, base: Path, models: Sequence[Path], path: Path) -> Path:
    """A mergekit recipe; `linear` has no base."""
    own = {"density": DENSITY} if method == "ties" else {}
    data = {
        "merge_method": method,
        "dtype": "float32",
        "models": [
            {"model": str(model), "parameters": {"weight": weight, **own}}
            for model, weight in zip(models, WEIGHTS, strict=True)
        ],
        **({} if method == "linear" else {"base_model": str(base)}),
    }
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def command(side: str, python: Path, recipe: Path, out: Path) -> list[str]:
    if side == PEER:
        return [str(python.with_name("mergekit-yaml")), str(recipe), str(out), "--quiet"]
    return [str(python), "-m", "featherweight", "merge", "--recipe", str(recipe), "--out", str(out), "--quiet"]


def measured(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs a command: wall and processor seconds, largest resident set, most memory of its own."""
    started = time.perf_counter()
    with TemporaryDirectory() as folder, (Path(folder) / "errors").open("w+b") as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        peaks = {"VmHWM": 0, "RssAnon": 0}  # wait4's largest resident set would be ours before the process started
        watcher = threading.Thread(target=_watch, args=(process.pid, peaks), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{arguments[0]} failed:\n{errors.read().decode()[-3000:]}")
    return {
        "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": peaks["VmHWM"],
        "own_peak_bytes": peaks["RssAnon"], "load_average": os.getloadavg()[0],
    }  # fmt: skip


def _watch(process: int, peaks: dict[str, int]) -> None:
    """Looks a hundred times a second until the process has ended."""
    path = Path(f"/proc/{process}/status")
    while True:
        try:
            facts = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            return
        if "VmHWM" not in facts:
            return
        for name in peaks:
            peaks[name] = max(peaks[name], int(facts[name].split()[0]) * 1024)
        time.sleep(0.01)


def differences(one: Path, other: Path) -> tuple[float, int]:
    """The largest difference between two models' tensors, and how many values differ by more than is allowed."""
    with safe_open(one / WEIGHTS_FILE, "pt") as left, safe_open(other / WEIGHTS_FILE, "pt") as right:
        assert set(left.keys()) == set(right.keys()), "the two have other tensors"
        worst, over = 0.0, 0
        for name in left.keys():  # noqa: SIM118 - it is no dictionary
            apart = (left.get_tensor(name) - right.get_tensor(name)).abs()
            worst, over = max(worst, float(apart.max())), over + int((apart > MOST_DIFFERENCE).sum())
    return worst, over


def untied_differences(one: Path, other: Path, base: Path, models: Sequence[Path]) -> int:
    """How many values differ although no fine-tune's change is tied there at TIES's cut."""
    count = 0
    opened = [safe_open(folder / WEIGHTS_FILE, "pt") for folder in (one, other, base, *models)]
    for name in opened[0].keys():  # noqa: SIM118
        left, right, own, *tuned = (each.get_tensor(name).float().reshape(-1) for each in opened)
        apart = (left - right).abs() > MOST_DIFFERENCE
        if not bool(apart.any()):
            continue
        tied = torch.zeros_like(apart)
        for each in tuned:
            sizes = (each - own).abs()
            least = sizes.kthvalue(len(sizes) - max(1, int(DENSITY * len(sizes))) + 1).values
            tied |= sizes == least
        count += int((apart & ~tied).sum())
    return count


def compete(
    method: str, takers: Mapping[str, Path], base: Path, models: Sequence[Path], folder: Path, repeats: int
) -> Any:
    """Both sides with one recipe, in turns."""
    recipe = write_recipe(method, base, models, folder / f"{method}.yaml")
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in takers}
    for repeat in range(repeats):
        for side, python in takers.items():
            out = folder / f"{method}-{side}-{repeat}"
            runs[side].append(measured(command(side, python, recipe, out)))
            print(method, side, runs[side][-1], file=sys.stderr, flush=True)
    result: dict[str, Any] = {"method": method, "runs": runs}
    if PEER in takers:
        worst, over = differences(folder / f"{method}-{OURS}-0", folder / f"{method}-{PEER}-0")
        result |= {"largest_difference": worst, "values_over": over}
        result |= {key: ratio(runs, key) for key in ("seconds", "cpu_seconds", "peak_bytes", "own_peak_bytes")}
        result["passed"] = (
            worst <= MOST_DIFFERENCE and result["seconds"] <= MOST_TIME and result["peak_bytes"] <= MOST_MEMORY
            and result["own_peak_bytes"] <= MOST_MEMORY
        )  # fmt: skip
    return result


def ratio(runs: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> float:
    """Ours over theirs, medians."""
    ours, theirs = (statistics.median(each[key] for each in runs[side]) for side in (OURS, PEER))
    return float(ours / theirs)


def with_ties(takers: Mapping[str, Path], base: Model, folder: Path) -> dict[str, int]:
    """TIES on fine-tunes that have ties at the cut: how many values differ, and how many of them are not tied."""
    models = write_fine_tunes(base, folder / "tied", cut_ties=False)
    recipe = write_recipe("ties", base.folder, models, folder / "tied.yaml")
    outs = {side: folder / f"tied-{side}" for side in takers}
    for side, python in takers.items():
        measured(command(side, python, recipe, outs[side]))
    _, over = differences(outs[OURS], outs[PEER])
    return {"differ": over, "not_tied": untied_differences(outs[OURS], outs[PEER], base.folder, models)}


def way_back(base: Path, models: Sequence[Path], folder: Path) -> dict[str, bool]:
    """Whether a merge of three, rebuilt without the second, is the file that merging the other two gives."""
    found = {}
    for method in BACK:
        fields = {"density": DENSITY} if method in ("ties", "dare") else {}
        whole = fw.merge(base, models, folder / f"{method}-abc", method=method, weight=WEIGHTS, fields=fields)
        rebuilt = fw.unmerge(whole.folder, "ft-b", folder / f"{method}-rebuilt")
        never = fw.merge(base, models[::2], folder / f"{method}-ac", method=method, weight=WEIGHTS[::2], fields=fields)
        files = [(each.folder / WEIGHTS_FILE).read_bytes() for each in (rebuilt, never)]
        found[method] = files[0] == files[1]
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--quick", action="store_true", help="without the way back and without ties")
    given = parser.parse_args()
    takers, reasons = interpreters([PEER])
    base = fw.open_model("smollm2-135m")
    with TemporaryDirectory() as name:
        folder = Path(name)
        models = write_fine_tunes(base, folder / "fine-tunes", cut_ties=True)
        results = [compete(each, takers, base.folder, models, folder, given.repeats) for each in given.methods]
        ties = with_ties(takers, base, folder) if PEER in takers and not given.quick else None
        back = {} if given.quick else way_back(base.folder, models, folder)
    passed = all(each.get("passed", True) for each in results) and all(back.values())
    passed = passed and (ties is None or not ties["not_tied"])
    facts = {"left_out": reasons, "results": results, "ties": ties, "rebuild_is_never_merged": back, "passed": passed}
    show(facts)
    if given.quick or given.methods != METHODS or given.repeats < 3:
        return 0 if passed else 1
    path = save("merge_peers", "python benchmarks/merge_peers.py", facts)
    Console().print(f"wrote {path.name}; {'passed' if passed else 'FAILED'}")
    return 0 if passed else 1


def show(facts: Mapping[str, Any]) -> None:
    console, table = Console(), Table(box=None)
    for title in ("method", "by", "seconds", "processor s", "peak memory", "of its own"):
        table.add_column(title, justify="right")
    for result in facts["results"]:
        for side, runs in result["runs"].items():
            middle = {key: statistics.median(each[key] for each in runs) for key in runs[0]}
            table.add_row(
                result["method"], side, f"{middle['seconds']:.1f}", f"{middle['cpu_seconds']:.1f}",
                format_bytes(middle["peak_bytes"]), format_bytes(middle["own_peak_bytes"]),
            )  # fmt: skip
    console.print(table)
    for result in facts["results"]:
        if "passed" in result:
            console.print(
                f"{result['method']}: time {result['seconds']:.2f} x, memory {result['peak_bytes']:.2f} x (its own "
                f"{result['own_peak_bytes']:.2f} x), largest difference {result['largest_difference']:.2g}",
                highlight=False,
            )
    if facts["ties"]:
        console.print(
            f"with ties at the cut {facts['ties']['differ']} values differ, {facts['ties']['not_tied']} untied"
        )
    for method, same in facts["rebuild_is_never_merged"].items():
        console.print(f"{method}: rebuilt without one = never merged: {'bit for bit' if same else 'NO'}")
    for peer, reason in facts["left_out"].items():
        console.print(f"{peer} was left out: {reason}")


if __name__ == "__main__":
    sys.exit(main())
