"""Our reader of GGUF headers agrees with gguf-py's, and refuses what is not a whole file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from featherweight.core.errors import CheckpointError
from featherweight.core.gguf_metadata import read_gguf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Every type of value, two tensors, an alignment that is not the usual one."""
    path = tmp_path / "file.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"test.{kind}", 7)
    writer.add_float32("test.float32", 0.1)
    writer.add_float64("test.float64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "né\n")
    writer.add_array("test.strings", ["a", "", "ü"])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.0])
    writer.add_array("test.bools", [True, False])
    writer.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("blocks", np.arange(36, dtype=np.uint8).reshape(2, 18), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fields_and_types_are_those_of_gguf_py(file: Path) -> None:
    ours, theirs = read_gguf(file), gguf.GGUFReader(str(file))
    expected = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(ours.fields) == set(expected)
    for key, field in expected.items():
        assert ours.fields[key].value == field.contents(), key
        assert ours.fields[key].type == field.types[0], key
        assert ours.fields[key].element == (field.types[1] if len(field.types) > 1 else None), key


def test_tensors_lie_where_gguf_py_finds_them(file: Path) -> None:
    ours, theirs = read_gguf(file), gguf.GGUFReader(str(file))
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.type, info.offset, info.nbytes) == (tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes)
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
    assert ours.data("plain").view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    assert ours.data("blocks").tolist() == list(range(36))


def test_missing_fields_have_a_default(file: Path) -> None:
    assert read_gguf(file).get("no.such.key", 3) == 3


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"is not a whole GGUF file|is truncated"):
        read_gguf(file)


def test_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("This is not a model. " * 10)
    with pytest.raises(CheckpointError, match="is not a whole GGUF file"):
        read_gguf(tmp_path / "text.gguf")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_gguf(tmp_path / "none.gguf")
