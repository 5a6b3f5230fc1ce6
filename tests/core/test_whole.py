"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from featherweight.core.errors import OutputError
from featherweight.core.whole import whole_file, whole_folder


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail_in_the_middle() -> None:
        with whole_file(target) as draft:
            draft.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"
    with whole_file(target) as draft:
        draft.write_text("new")
    assert target.read_text() == "new"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def fail_in_the_middle() -> None:
        with whole_file(tmp_path / "file"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"No space left on device.*free some space"):
        fail_in_the_middle()
    assert list(tmp_path.iterdir()) == []


def test_whole_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_in_the_middle() -> None:
        with whole_folder(tmp_path / "out") as draft:
            (draft / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "out") as draft:
        (draft / "all").write_text("x")
    assert (tmp_path / "out" / "all").is_file()
    with pytest.raises(OutputError, match="exists already"), whole_folder(tmp_path / "out"):
        pass
