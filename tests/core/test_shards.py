"""safetensors files: split, written, and measured without being written."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from featherweight.core.checkpoint import entry_of, read_entries, write_tensors
from featherweight.core.formats import get
from featherweight.core.in_file import dtype_name
from featherweight.core.shards import Loader, shards_bytes, split, write_shards

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool]  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def loader(value: torch.Tensor) -> Loader:
    return Loader(dtype_name(value.dtype), tuple(value.shape), lambda: value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=8))
def test_measured_size_is_that_of_the_file(
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]], tmp_path: Path
) -> None:
    made = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
    write_shards(tmp_path, {name: loader(value) for name, value in made.items()})
    facts = {name: (dtype_name(dtype), shape) for name, (dtype, shape) in tensors.items()}
    assert shards_bytes(facts) == (tmp_path / "model.safetensors").stat().st_size


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=8),
    threads=st.sampled_from([1, 3]),
)
def test_the_bytes_are_those_of_safetensors(
    tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]], threads: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randint(0, 2, shape, generator=generator).to(dtype) for name, (dtype, shape) in tensors.items()}
    write_shards(tmp_path, {name: loader(value) for name, value in made.items()}, threads=threads)
    save_file(made, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_one_tensor_is_loaded_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def load() -> torch.Tensor:
        assert not any(each() is not None for each in alive)
        made = torch.zeros(3)
        alive.append(weakref.ref(made))
        return made

    write_shards(tmp_path, {name: Loader("F32", (3,), load) for name in "abc"})
    assert len(alive) == 3


def test_a_tensor_that_is_not_what_it_was_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="w is of 4 bytes and not of 8"):
        write_shards(tmp_path, {"w": Loader("F32", (2,), lambda: torch.zeros(1))})


def test_others_may_read_the_files(tmp_path: Path) -> None:
    write_shards(tmp_path, {"w": loader(torch.zeros(1))})
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
