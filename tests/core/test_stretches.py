"""Stretches of tensors: all values in order, the digest that reading the whole gives, NaN found on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from featherweight.core.checkpoint import Entry, entry_of, file_entries
from featherweight.core.errors import CheckpointError
from featherweight.core.stretches import LENGTH, Stretches, stretches

SHAPES = [(), (1,), (7, 3), (LENGTH,), (LENGTH + 1,), (3, LENGTH // 2)]


def in_file(folder: Path, values: torch.Tensor) -> Entry:
    save_file({"first": torch.ones(5), "w": values}, folder / "w.safetensors")
    return file_entries(folder / "w.safetensors")["w"]


def read_all(source: Stretches, count: int) -> torch.Tensor:
    return torch.cat([source.read(first, last).clone() for first, last in stretches(count)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_digest(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape).to(dtype)
    for entry in (in_file(tmp_path, values), dataclasses.replace(entry_of(values))):
        expected = dataclasses.replace(entry).digest
        assert torch.equal(read_all(Stretches(entry), values.numel()), values.reshape(-1))
        assert entry.__dict__["digest"] == expected


def test_a_part_gives_no_digest(tmp_path: Path) -> None:
    entry = in_file(tmp_path, torch.randn(3 * LENGTH))
    source = Stretches(entry)
    source.read(0, LENGTH)
    source.read(2 * LENGTH, 3 * LENGTH)
    assert "digest" not in entry.__dict__


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    values = torch.zeros(LENGTH + 10)
    values[-3] = bad
    source = Stretches(in_file(tmp_path, values))
    source.read(0, LENGTH)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        source.read(LENGTH, LENGTH + 10)


def test_large_values_are_finite(tmp_path: Path) -> None:
    """Their sum is not."""
    entry = in_file(tmp_path, torch.full((1000,), 3e38))
    read_all(Stretches(entry), 1000)
    assert "digest" in entry.__dict__


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    entry = in_file(tmp_path, torch.randn(2 * LENGTH))
    source = Stretches(entry)
    path = tmp_path / "w.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - LENGTH)
    source.read(0, LENGTH)
    with pytest.raises(CheckpointError, match="has become shorter"):
        source.read(LENGTH, 2 * LENGTH)
