"""safetensors files: split, written, and measured without being written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featherweight.core.checkpoint import dtype_name, entry_of, read_entries, write_tensors
from featherweight.core.formats import get
from featherweight.core.shards import shards_bytes, split, write_shards

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool]  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=8))
def test_measured_size_is_that_of_the_file(
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]], tmp_path: Path
) -> None:
    made = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
    write_shards(tmp_path, {name: (value.nbytes, lambda value=value: value) for name, value in made.items()})
    facts = {name: (dtype_name(dtype), shape) for name, (dtype, shape) in tensors.items()}
    assert shards_bytes(facts) == (tmp_path / "model.safetensors").stat().st_size


def test_others_may_read_the_files(tmp_path: Path) -> None:
    write_shards(tmp_path, {"w": (4, lambda: torch.zeros(1))})
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_split_keeps_order_and_fills_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.core.shards.SHARD_BYTES", 10)
    assert split({"a": 4, "b": 6, "c": 1, "d": 25, "e": 2}) == [["a", "b"], ["c"], ["d"], ["e"]]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_rounded_to_floating_point_is_a_plain_tensor(kind: str, tmp_path: Path) -> None:
    """A quantizer may leave a matrix in BF16; saved and read again it is the same tensor."""
    entry = entry_of(get(kind).fit(torch.randn(4, 8, generator=torch.Generator().manual_seed(0))))
    write_tensors(tmp_path, {"w": entry})
    assert not (tmp_path / "featherweight.json").exists()
    assert read_entries(tmp_path)["w"].digest == entry.digest
