"""GGUF files hold exactly what the model records, have exactly the predicted size, and open again as the same model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rounding import all_in, rounded

from featherweight.core.errors import FormatError, OutputError
from featherweight.core.formats import FLOATS, GGUF_BLOCKS, get
from featherweight.core.gguf_metadata import read_gguf
from featherweight.core.model import Model
from featherweight.core.source import open_folder, open_model
from featherweight.export.checked import export_gguf
from featherweight.export.gguf import as_stored, gguf_size, write_gguf
from featherweight.testing.tiny import tiny_model


def assert_equal(left: Model, right: Model) -> None:
    """Same tensors, bit for bit, same configuration, same tokenizer."""
    assert set(left.entries) == set(right.entries)
    for name, entry in left.entries.items():
        assert (entry.format, entry.shape) == (right.entries[name].format, right.entries[name].shape), name
        assert entry.digest == right.entries[name].digest, name
    assert left.fingerprint == right.fingerprint


def test_every_architecture_comes_back_bit_for_bit(any_architecture: Path, tmp_path: Path) -> None:
    model = open_folder(any_architecture)
    export_gguf(model, tmp_path / "model.gguf")
    assert_equal(as_stored(model), open_model(tmp_path / "model.gguf", tmp_path / "cache"))


def test_every_architecture_comes_back_rounded(any_architecture: Path, tmp_path: Path) -> None:
    """All block types at once, one tensor each in turn."""
    model = open_folder(any_architecture)
    kinds = {name: GGUF_BLOCKS[i % len(GGUF_BLOCKS)] for i, name in enumerate(model.architecture.quantizable())}
    model = rounded(model, kinds)
    found = export_gguf(model, tmp_path / "model.gguf")
    assert found.difference < 0.01
    assert_equal(as_stored(model), open_model(tmp_path / "model.gguf", tmp_path / "cache"))
    assert gguf_size(model) == (tmp_path / "model.gguf").stat().st_size


@pytest.mark.parametrize("kind", GGUF_BLOCKS)
def test_every_block_type_comes_back_bit_for_bit(kind: str, models_folder: Path, tmp_path: Path) -> None:
    # K-quants need rows of 256: the fused layout of Phi-3 at this width has none shorter.
    model = open_folder(tiny_model(models_folder, "phi3", hidden_size=256, num_attention_heads=8))
    model = all_in(model, kind)
    export_gguf(model, tmp_path / "model.gguf")
    reopened = open_model(tmp_path / "model.gguf", tmp_path / "cache")
    assert {reopened.entries[name].format for name in model.architecture.quantizable()} == {kind}
    assert_equal(as_stored(model), reopened)


@pytest.mark.parametrize("matrices", FLOATS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_plain_matrices(matrices: str, dtype: str, models_folder: Path, tmp_path: Path) -> None:
    """float32 matrices become what is asked for; half precision stays as it is."""
    model = open_folder(tiny_model(models_folder, "llama", dtype=dtype))
    write_gguf(model, tmp_path / "model.gguf", matrices)  # type: ignore[arg-type]
    expected = {"float32": matrices, "bfloat16": "BF16", "float16": "F16"}[dtype]
    tensors = read_gguf(tmp_path / "model.gguf").tensors
    assert {info.type for info in tensors.values() if len(info.shape) == 2} == {expected}
    assert {info.type for info in tensors.values() if len(info.shape) == 1} == {"F32"}
    stored = as_stored(model, matrices)  # type: ignore[arg-type]
    assert_equal(stored, open_model(tmp_path / "model.gguf", tmp_path / "cache"))
    assert gguf_size(model, matrices=matrices) == (tmp_path / "model.gguf").stat().st_size  # type: ignore[arg-type]


def test_stored_once_is_stored_for_good(any_architecture: Path) -> None:
    stored = as_stored(open_folder(any_architecture))
    assert as_stored(stored).fingerprint == stored.fingerprint


def test_tied_embedding_is_written_once(models_folder: Path, tmp_path: Path) -> None:
    model = open_folder(tiny_model(models_folder, "qwen2", tie_word_embeddings=True))
    export_gguf(model, tmp_path / "model.gguf")
    assert "output.weight" not in read_gguf(tmp_path / "model.gguf").tensors


def test_sharded_checkpoint_gives_the_same_file(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featherweight.core.shards.SHARD_BYTES", 100_000)
    model = open_folder(tiny)
    model.save(tmp_path / "sharded" / tiny.name)
    assert len(list((tmp_path / "sharded" / tiny.name).glob("*.safetensors"))) > 1
    write_gguf(model, tmp_path / "one.gguf")
    write_gguf(open_folder(tmp_path / "sharded" / tiny.name), tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_size_is_exact(data: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    """Of the file that would be written if some tensors were in other formats."""
    model = open_folder(tiny)
    names = model.architecture.quantizable()
    fits = {name: [k for k in (*GGUF_BLOCKS, *FLOATS) if get(k).accepts(model.entries[name].shape)] for name in names}
    chosen = {name: data.draw(st.sampled_from(kinds)) for name, kinds in fits.items() if data.draw(st.booleans())}
    matrices = data.draw(st.sampled_from(FLOATS))
    path = tmp_path / "model.gguf"
    path.unlink(missing_ok=True)
    write_gguf(rounded(model, chosen), path, matrices)  # type: ignore[arg-type]
    assert gguf_size(model, chosen, matrices) == path.stat().st_size  # type: ignore[arg-type]


def test_size_refuses_what_cannot_be_written(tiny: Path) -> None:
    model = open_folder(tiny)
    name = model.architecture.linears()[0]
    with pytest.raises(FormatError, match="multiple of 256"):
        gguf_size(model, {name: "Q4_K"})
    with pytest.raises(FormatError, match="no format of GGUF files; quantize to a GGUF block type"):
        gguf_size(model, {name: "int4-g32"})


def test_integer_formats_are_refused_and_nothing_is_written(tiny: Path, tmp_path: Path) -> None:
    model = rounded(open_folder(tiny), {"model.layers.0.mlp.up_proj.weight": "int4-g32"})
    with pytest.raises(FormatError, match=r"up_proj.weight in int4-g32: is in no format of GGUF files"):
        export_gguf(model, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_stays(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("mine")
    for write in (write_gguf, export_gguf):
        with pytest.raises(OutputError, match="exists already"):
            write(open_folder(tiny), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_text() == "mine"


_FULL = """
import resource, signal, sys
from pathlib import Path
from featherweight.core.errors import OutputError
from featherweight.core.source import open_folder
from featherweight.export.checked import export_gguf, export_hugging_face
model = open_folder(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
export = {"gguf": export_gguf, "folder": export_hugging_face}[sys.argv[2]]
try:
    export(model, Path(sys.argv[3]))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits the size of files, which needs POSIX")
@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_a_full_disk_leaves_nothing(kind: str, tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / ("model.gguf" if kind == "gguf" else "model")
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tiny), kind, str(target)], capture_output=True, text=True, check=True
    )
    assert "could not be written" in done.stdout
    assert "free some space" in done.stdout
    assert not list((tmp_path / "out").iterdir())


def test_the_file_says_what_it_is(tiny: Path, tmp_path: Path) -> None:
    write_gguf(all_in(open_folder(tiny), "Q5_0"), tmp_path / "model.gguf")
    file = read_gguf(tmp_path / "model.gguf")
    assert file.get("general.architecture") == "llama"
    assert file.get("general.name") == tiny.name
    assert file.get("general.file_type") == 8
    assert file.get("llama.block_count") == 2
    assert "<|start|>" in file.get("tokenizer.chat_template")
