"""Interrupted fits: killed, stopped or out of disk space, they leave nothing half-written and go on where they were."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

import featherweight as fw
from featherweight.core.errors import ResumeError
from featherweight.core.progress import Progress
from featherweight.testing.tiny import tiny_model
from featherweight.verbs.fit import FitResult

_FIT = """
import json, sys
from pathlib import Path
import torch
import featherweight as fw
model, out, cache, settings, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
fw.fit(model, fw.Budget(memory=0.6), out, settings=fw.Settings(**json.loads(settings)), cache=Path(cache))
"""


def wait_for(found: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Returns when something is there; fails when the process ends before."""
    for _ in range(6000):
        if found():
            return
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode} before it could be stopped")
        time.sleep(0.01)
    pytest.fail("took too long")


def steps_of(run: Path) -> dict[str, int]:
    """When each finished step was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("steps/*/step.json")}


def measurements_of(run: Path) -> dict[str, int]:
    """When each measurement was written."""
    return {path.name: path.stat().st_mtime_ns for path in run.glob("measurements/[!.]*")}


class Watching(Progress):
    """Notes when steps were written, just before the chosen model is made and the others are forgotten."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seen: list[dict[str, int]] = []

    def say(self, message: str) -> None:
        if message.startswith("making "):
            self.seen.append(steps_of(self.run))


class TestKilled:
    @pytest.fixture(scope="class", params=["steps/*/step.json", "trials.db"])
    def killed(
        self, request: Any, trained: Path, small: fw.Settings, cache: Path, fitted: FitResult, tmp_path_factory: Any
    ) -> Iterator[Path]:
        """A run that was killed as soon as a file appeared in it."""
        out = tmp_path_factory.mktemp("killed") / "run"
        arguments = [trained, out, cache, json.dumps(small.to_dict()), torch.get_num_threads()]
        process = subprocess.Popen([sys.executable, "-c", _FIT, *map(str, arguments)], start_new_session=True)
        try:
            wait_for(lambda: any(out.glob(request.param)), process)
        finally:
            process.kill()
            process.wait()
        assert not (out / "result.json").exists()
        return out

    def test_it_ends_as_if_nothing_had_happened(
        self, killed: Path, trained: Path, small: fw.Settings, cache: Path, fitted: FitResult
    ) -> None:
        steps, measured = steps_of(killed), measurements_of(killed)
        assert steps
        watching = Watching(killed)
        result = fw.fit(
            trained, fw.Budget(memory=0.6), killed, settings=small, resume=True, cache=cache, progress=watching
        )
        assert result.facts["chosen"]["hashed"] == fitted.facts["chosen"]["hashed"]
        assert [t["name"] for t in result.facts["trials"]] == [t["name"] for t in fitted.facts["trials"]]
        [before_the_end] = watching.seen
        assert before_the_end.items() >= steps.items(), "a finished step was done again"
        assert measurements_of(killed).items() >= measured.items(), "a measurement was made again"
        assert result.facts["receipts"]["head"] == fitted.facts["receipts"]["head"]


class TestRefused:
    def test_another_budget(self, fitted: FitResult, trained: Path, small: fw.Settings, cache: Path) -> None:
        with pytest.raises(ResumeError, match=r"was started with budget = .*0\.6.*, and now it is .*0\.5") as error:
            fw.fit(trained, fw.Budget(memory=0.5), fitted.folder, settings=small, resume=True, cache=cache)
        assert "--reuse to keep its measurements" in error.value.mend

    def test_another_model(self, fitted: FitResult, models_folder: Path, small: fw.Settings, cache: Path) -> None:
        other = tiny_model(models_folder, seed=5)
        with pytest.raises(ResumeError, match="was started with model = "):
            fw.fit(other, fw.Budget(memory=0.6), fitted.folder, settings=small, resume=True, cache=cache)

    def test_on_the_command_line(
        self, command: Callable[..., Any], unchanged: Any, fitted: FitResult, trained: Path
    ) -> None:
        with unchanged(fitted.folder):
            ended = command("fit", trained, "--memory", "50%", "--out", fitted.folder, "--resume", "--quiet")
        assert ended.status == 2
        assert "was started with budget = " in ended.err


_MAIN = """
import signal, sys
import torch
torch.set_num_threads(1)
limit = int(sys.argv.pop(1))
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from featherweight.cli import main
main()
"""


def start(limit: int, model: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    """The command line in a process of its own, perhaps with no room for files larger than `limit`."""
    arguments = ["fit", str(model), "--memory", "60%", "--out", str(out), "--trials", "1", "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(limit), *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        env={**os.environ, "FEATHERWEIGHT_CACHE": str(cache)},
    )  # fmt: skip


def assert_nothing_is_half_written(run: Path) -> None:
    """Every file that is there is whole; what was being written is gone."""
    assert not list(run.rglob(".*"))
    for path in run.rglob("*.json"):
        json.loads(path.read_text())
    for path in run.rglob("*.safetensors"):
        with safetensors.safe_open(path, "pt") as file:
            file.keys()


def test_interrupted_from_the_keyboard(trained: Path, cache: Path, fitted: FitResult, tmp_path: Path) -> None:
    process = start(0, trained, tmp_path / "run", cache)
    wait_for(lambda: any((tmp_path / "run").glob("measurements/*")), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command with --resume goes on from the last finished step" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "run.json").is_file()
    assert_nothing_is_half_written(tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits the size of files, which needs POSIX")
@pytest.mark.parametrize("limit", [pytest.param(2_000, marks=pytest.mark.slow), 100_000])
def test_a_full_disk(limit: int, trained: Path, cache: Path, fitted: FitResult, tmp_path: Path) -> None:
    """No room for anything, not even in the folder for temporary files; then none for the larger measurements."""
    run = tmp_path / "run"
    process = start(limit, trained, run, cache)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    [line] = said.splitlines()
    named = "output: File too large; " if limit < 10_000 else f"{run}/"
    assert line.startswith(f"featherweight: {named}")
    assert "free some space" in line
    assert not (run / "final").exists()
    assert_nothing_is_half_written(run)
    assert run.exists() == (limit > 10_000)


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 none $2 || exit 99
shift; cd $1; shift
"$@"
status=$?
find . -name '.?*'
exit $status
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts a small disk, which needs unshare")
@pytest.mark.parametrize("size", ["1500k", *(pytest.param(size, marks=pytest.mark.slow) for size in ("300k", "3000k"))])
def test_a_really_full_disk(size: str, trained: Path, cache: Path, fitted: FitResult, tmp_path: Path) -> None:
    """On a disk that is too small for a run, whatever it is that finds no room."""
    arguments = ["fit", str(trained), "--memory", "60%", "--out", str(tmp_path / "run"), "--trials", "1", "--quiet"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _ON_A_SMALL_DISK, "sh", size, str(tmp_path),
         sys.executable, "-m", "featherweight", *arguments],
        env={**os.environ, "FEATHERWEIGHT_CACHE": str(cache)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.stderr.startswith(("unshare: ", "mount: ")):
        pytest.skip("may not mount a small disk here")
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"featherweight: {tmp_path / 'run'}/")
    assert "free some space and run again" in line
    assert done.stdout == "", "something half-written is left"
