"""The folder of a run: inputs, measurements, finished steps; made once, resumed only from equal inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featherweight.core.errors import OutputError, ResumeError
from featherweight.core.receipt import Ledger
from featherweight.core.whole import whole_file

_INPUTS = "run.json"


@dataclass(frozen=True)
class Workspace:
    """A run's folder.

    Attributes:
        folder: the folder itself; `final/` and `report.html` are what a person looks at.
    """

    folder: Path

    @property
    def measurements(self) -> Path:
        return self.folder / "measurements"

    @property
    def steps(self) -> Path:
        return self.folder / "steps"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def study(self) -> Path:
        return self.folder / "trials.db"

    @property
    def final(self) -> Path:
        return self.folder / "final"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.jsonl")

    def write(self, path: Path, text: str) -> None:
        """Writes a file whole or not at all."""
        with whole_file(path) as draft:
            draft.write_text(text, encoding="utf-8")


def check_free(folder: Path, resume: bool) -> None:
    """Refuses an output folder that holds something else.

    Raises:
        OutputError: it exists and is not to be resumed, or it cannot be made.
        ResumeError: it is to be resumed and is no run.
    """
    if resume:
        if not (folder / _INPUTS).is_file():
            raise ResumeError(str(folder), "holds no run to resume", "leave --resume out to start one")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(str(folder), "exists already", "choose another folder, or add --resume to go on with it")
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not os.access(nearest, os.W_OK):
        raise OutputError(str(folder), f"cannot be made: {nearest} is not writable", "choose another folder")


def numbered(base: Path) -> Path:
    """A folder that does not exist yet: this one, or the same with -2, -3 and so on."""
    number, folder = 1, base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def measurements_of(run: Path, model: str) -> Path:
    """Where an earlier run of a model keeps its measurements.

    Args:
        run: its folder.
        model: fingerprint of the model; nothing that was measured of another one is of use.

    Raises:
        ResumeError: it has none, or it is a run of another model.
    """
    found, inputs = Workspace(run).measurements, run / _INPUTS
    if not found.is_dir() or not inputs.is_file():
        raise ResumeError(f"--reuse {run}", "holds no measurements of an earlier run", "give the folder that fit wrote")
    if json.loads(inputs.read_text(encoding="utf-8")).get("model") != model:
        raise ResumeError(f"--reuse {run}", "is a run of another model", "give a run of this one, or leave it out")
    return found


def open_workspace(folder: Path, inputs: Mapping[str, Any], resume: bool) -> Workspace:
    """Makes the folder of a new run, or opens that of an interrupted one.

    Args:
        folder: the run's folder.
        inputs: plain JSON facts that the results depend on.
        resume: go on with what is there.

    Raises:
        ResumeError: the inputs are not those that the run was started with; the first difference is named.
    """
    check_free(folder, resume)
    plain = json.loads(json.dumps(inputs))
    workspace = Workspace(folder)
    if resume:
        _require_equal(json.loads((folder / _INPUTS).read_text(encoding="utf-8")), plain, folder)
        return workspace
    workspace.write(folder / _INPUTS, json.dumps(plain, indent=1) + "\n")
    return workspace


def _require_equal(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    for key in sorted(set(before) | set(now)):
        if before.get(key) != now.get(key):
            raise ResumeError(
                f"--resume {folder}",
                f"was started with {key} = {_short(before.get(key))}, and now it is {_short(now.get(key))}",
                "give the same inputs, or start a new run (with --reuse to keep its measurements)",
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
