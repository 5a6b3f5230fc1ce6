"""The store: nothing is measured twice, nothing half-written is ever found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.errors import OutputError, ResumeError
from featherweight.core.store import Store
from featherweight.core.workspace import open_workspace


def test_computed_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    calls: list[int] = []

    def compute() -> list[int]:
        calls.append(1)
        return [1, 2]

    assert store.json("x", {"a": 1}, compute) == store.json("x", {"a": 1}, compute) == [1, 2]
    assert Store(tmp_path).json("x", {"a": 1}, compute) == [1, 2]
    assert len(calls) == 1
    store.json("x", {"a": 2}, compute)
    assert len(calls) == 2


def test_tensors_and_reuse(tmp_path: Path) -> None:
    made = Store(tmp_path / "one").tensors("t", {}, lambda: {"w": torch.arange(3.0)})
    other = Store(tmp_path / "two", [tmp_path / "one"])
    found = other.tensors("t", {}, lambda: pytest.fail("measured again"))
    assert torch.equal(found["w"], made["w"])
    assert other.made == 0


def test_a_failed_measurement_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Store(tmp_path).json("x", {}, lambda: 1 // 0)
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def test_without_a_folder_it_writes_nothing(tmp_path: Path) -> None:
    assert Store().json("x", {}, lambda: 1) == 1
    assert list(tmp_path.iterdir()) == []


class TestWorkspace:
    def test_existing_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "something").write_text("x")
        with pytest.raises(OutputError, match="exists already"):
            open_workspace(tmp_path, {}, resume=False)

    def test_empty_folder_is_fine(self, tmp_path: Path) -> None:
        open_workspace(tmp_path, {"a": 1}, resume=False)
        open_workspace(tmp_path, {"a": 1}, resume=True)

    def test_changed_inputs_are_named(self, tmp_path: Path) -> None:
        open_workspace(tmp_path / "run", {"model": "abc", "budget": {"memory": 1}}, resume=False)
        with pytest.raises(ResumeError, match=r'budget = \{"memory": 1\}, and now it is \{"memory": 2\}'):
            open_workspace(tmp_path / "run", {"model": "abc", "budget": {"memory": 2}}, resume=True)

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(ResumeError, match="no run to resume"):
            open_workspace(tmp_path, {}, resume=True)
