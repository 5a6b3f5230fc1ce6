"""A study of a tiny model, with everything measured that a plan starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from featherweight.core.data import default_documents, tokenize
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.store import Store
from featherweight.export.exporters import exporter
from featherweight.plan.evaluate import Evaluator
from featherweight.plan.goal import Goal
from featherweight.plan.study import Study


@pytest.fixture(scope="session")
def study(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """At most 60 % of the bytes, as a GGUF file."""
    parent, writer = open_folder(trained), exporter("gguf")
    prose, code = default_documents().values()
    rows = [
        tokenize({"prose": prose[part::3], "code": code[part::3]}, parent.tokenizer, rows=9, length=48)
        for part in range(3)
    ]
    run = Run(rows[0], parent=parent, store=Store(tmp_path_factory.mktemp("study")))
    found = Study(parent, writer, Goal(), *rows, run)
    return Study(parent, writer, Goal(memory=int(0.6 * found.parent_bytes)), *rows, run)


@pytest.fixture
def evaluator(study: Study, tmp_path: Path) -> Evaluator:
    """One that has run nothing yet: its store knows the study's measurements and keeps its own."""
    run = Run(study.calibration, parent=study.parent, store=Store(tmp_path / "store", [_folder(study)]))
    return Evaluator(study.parent, run, study.selection, 3, study.exporter.file_bytes, folder=tmp_path / "steps")


def _folder(study: Study) -> Path:
    assert study.run.store.folder is not None
    return study.run.store.folder


@pytest.fixture
def again(evaluator: Evaluator, study: Study) -> Callable[[], Evaluator]:
    """The evaluator of a new process that goes on in the same folder."""

    def make() -> Evaluator:
        run = Run(study.calibration, parent=study.parent, store=Store(evaluator.run.store.folder, [_folder(study)]))
        return Evaluator(study.parent, run, study.selection, 3, study.exporter.file_bytes, folder=evaluator.folder)

    return make
