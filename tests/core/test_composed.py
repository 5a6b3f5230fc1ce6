"""Formats of two tensors: exact bytes, exact values, whole round trips, and clear refusals where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core import formats
from featherweight.core.errors import FormatError
from featherweight.core.formats.composed import Kept, Summed
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.export.checked import export_gguf, export_hugging_face
from featherweight.export.gguf import gguf_size
from featherweight.testing import tiny_run

SUMS = ("Q4_0+int4-g32", "int3-g32+int4-g64", "int2-channel+Q8_0", "BF16+int4-g32", "Q4_0+int4-g32+int2-g32")
KEPT = ("Q4_0+0.2xBF16", "int2-g32+0.05xF16", "int4-g64-asym+0.6xBF16", "Q8_0+1e-05xBF16")


def matrix(rows: int = 24, columns: int = 256) -> torch.Tensor:
    return 0.05 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("name", SUMS + KEPT)
def test_names_and_bytes_are_exact(name: str) -> None:
    kind = formats.get(name)
    assert kind.name == name
    for rows in (8, 33):
        packed = kind.fit(matrix(rows))
        assert packed.nbytes == kind.tensor_bytes((rows, 256))
        assert formats.get(packed.format) is kind


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_the_sum_of_its_parts(name: str) -> None:
    kind = formats.get(name)
    assert isinstance(kind, Summed)
    packed = kind.fit(matrix())
    base, delta = kind.base_of(packed).dequantize(), kind.delta_of(packed).dequantize()
    assert torch.equal(packed.dequantize(), base + delta)
    assert (packed.dequantize() - matrix()).norm() < (base - matrix()).norm()


@pytest.mark.parametrize("name", SUMS)
def test_cut_sums_keep_their_values(name: str) -> None:
    kind = formats.get(name)
    packed = kind.fit(matrix())
    rows, columns = torch.tensor([3, 1, 20]), torch.arange(128, 256)
    assert torch.equal(kind.take_rows(packed, rows).dequantize(), packed.dequantize()[rows])
    if "channel" not in name:
        assert torch.equal(kind.take_columns(packed, columns).dequantize(), packed.dequantize()[:, columns])


@pytest.mark.parametrize("name", KEPT)
def test_kept_weights_have_sixteen_bits_and_the_rest_the_base(name: str) -> None:
    kind = formats.get(name)
    assert isinstance(kind, Kept)
    packed = kind.fit(matrix())
    kept, base = kind.kept_of(packed), kind.base.fit(matrix()).dequantize()
    assert int(kept.sum()) == round(kind.share * kept.numel())
    assert torch.equal(packed.dequantize()[~kept], base[~kept])
    assert torch.equal(packed.dequantize()[kept], matrix()[kept].to(kind.values.dtype).float())
    with pytest.raises(FormatError, match="cut the model first"):
        kind.take_rows(packed, torch.tensor([0]))


def test_bits_a_weight_are_counted_with_marks_and_scales() -> None:
    """16 bits for 60 % and 4 for all would be 13.6; the marks and the scales of Q4_0 come on top."""
    assert formats.get("Q4_0+0.6xBF16").tensor_bytes((64, 256)) * 8 / (64 * 256) == pytest.approx(
        4.5 + 1 + 9.6, abs=0.01
    )


def test_a_mask_of_another_size_is_refused() -> None:
    kind = formats.get("Q4_0+0.5xBF16")
    assert isinstance(kind, Kept)
    with pytest.raises(FormatError, match="mark as many"):
        kind.join(kind.base.fit(matrix()), matrix(), torch.ones(24, 256, dtype=torch.bool))


def with_format(model: Model, name: str) -> Model:
    linears = model.architecture.linears()
    return model.with_changes({each: formats.get(name).fit(model.tensor(each)) for each in linears})


@pytest.mark.parametrize("name", ["Q4_0+int4-g32", "BF16+int4-g32", "int2-g32+0.05xF16"])
def test_saved_and_read_back(tiny: Path, tmp_path: Path, name: str) -> None:
    model = with_format(open_folder(tiny), name)
    model.save(tmp_path / "saved")
    reread = open_folder(tmp_path / "saved")
    assert reread.fingerprint == model.fingerprint
    assert reread.nbytes == model.nbytes
    ids = tiny_run(tiny).tokens("test").ids
    assert torch.equal(reread.module()(ids).logits, model.module()(ids).logits)


@pytest.mark.parametrize("name", ["Q4_0+int4-g32", "int2-g32+0.05xF16"])
def test_no_export_pretends_to_hold_them(tiny: Path, tmp_path: Path, name: str) -> None:
    model = with_format(open_folder(tiny), name)
    for refused in (
        lambda: export_gguf(model, tmp_path / "model.gguf"),
        lambda: export_hugging_face(model, tmp_path / "folder"),
        lambda: gguf_size(model),
    ):
        with pytest.raises(FormatError, match="no runtime but this library reads"):
            refused()
    assert not list(tmp_path.iterdir())


def test_cast_to_bf16_they_are_an_ordinary_model(tiny: Path, tmp_path: Path) -> None:
    model = with_format(open_folder(tiny), "Q4_0+int4-g32")
    plain = build("rtn", {"format": "BF16"}).apply(model, tiny_run(tiny))
    export_hugging_face(plain, tmp_path / "folder")
    name = model.architecture.linears()[0]
    assert torch.equal(open_folder(tmp_path / "folder").tensor(name), model.tensor(name).bfloat16().float())


def test_unknown_parts_are_named() -> None:
    with pytest.raises(FormatError, match="int44"):
        formats.get("Q4_0+int44-g32")
    for asked in ("grid", "codes"):
        kind = formats.get("Q4_0+int4-g32")
        with pytest.raises(FormatError, match="no single grid"):
            getattr(kind, asked)(kind.fit(matrix()))
