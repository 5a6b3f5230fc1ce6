"""Number formats: exact bytes, codes and scales bit for bit, the same values as gguf-py and compressed-tensors."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core import formats
from featherweight.core.errors import FormatError
from featherweight.core.formats import ggml_kernels

GRIDDED = (*formats.GGUF_BLOCKS, *formats.PACKED_INTEGERS, "int3-g64", "int5-g32-asym")


def matrix(rows: int = 24, columns: int = 512, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * 0.05


@pytest.mark.parametrize("name", GRIDDED)
@pytest.mark.parametrize("weighted", [False, True])
def test_codes_and_grid_describe_the_values(name: str, weighted: bool) -> None:
    kind, weight = formats.get(name), matrix()
    importance = torch.rand(512, generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else None
    packed = kind.fit(weight, importance)
    grid, codes = kind.grid(packed), kind.codes(packed)  # type: ignore[attr-defined]
    scale = grid.scale.repeat_interleave(grid.group, 1)
    level = codes.float() if grid.levels is None else grid.levels[codes.long()]
    expected = scale * level + grid.minimum.repeat_interleave(grid.group, 1)
    # compressed-tensors multiplies in bf16; ggml in float32.
    tolerance = 0.005 if kind.runtime == "compressed-tensors" else 1e-6
    assert torch.allclose(packed.dequantize(), expected, rtol=tolerance, atol=1e-7)
    assert int(codes.min()) >= grid.low
    assert int(codes.max()) <= grid.high


@pytest.mark.parametrize("name", GRIDDED)
def test_codes_round_trip_through_bytes(name: str) -> None:
    kind = formats.get(name)
    packed = kind.fit(matrix())
    grid = kind.grid(packed)
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(grid.low, grid.high + 1, packed.shape, generator=generator).to(torch.int16)
    rewritten = kind.recode(packed, codes)
    assert torch.equal(kind.codes(rewritten), codes)  # type: ignore[attr-defined]
    assert torch.equal(kind.grid(rewritten).scale, grid.scale)
    again = kind.recode(packed, kind.codes(packed))  # type: ignore[attr-defined]
    assert all(torch.equal(again.parts[part], packed.parts[part]) for part in packed.parts)


@pytest.mark.parametrize("name", GRIDDED)
def test_bytes_are_exact(name: str) -> None:
    kind = formats.get(name)
    for rows in (8, 24, 33):
        assert kind.fit(matrix(rows)).nbytes == kind.tensor_bytes((rows, 512))


@pytest.mark.parametrize("name", GRIDDED)
def test_nearest_codes_on_the_fitted_grid_are_no_worse(name: str) -> None:
    kind, weight = formats.get(name), matrix()
    packed = kind.fit(weight)
    nearest = kind.recode(packed, kind.grid(packed).nearest(weight)).dequantize()
    assert (nearest - weight).norm() <= (packed.dequantize() - weight).norm() * 1.001


@pytest.mark.parametrize("name", GRIDDED)
def test_values_of_codes(name: str) -> None:
    """Those that are read back, but for bf16 products; neighbours are at least `spacing` apart."""
    kind = formats.get(name)
    packed = kind.fit(matrix())
    grid, codes = kind.grid(packed), kind.codes(packed)
    near = 2**-8 * float(packed.dequantize().abs().max()) if name.startswith("int") else 1e-5
    torch.testing.assert_close(grid.values(codes), packed.dequantize(), rtol=1e-5, atol=near)
    inside = codes < grid.high
    step = (grid.values(torch.where(inside, codes + 1, codes)) - grid.values(codes)).abs()
    assert bool((step >= 0.999 * grid.spacing.repeat_interleave(grid.group, 1))[inside].all())


@pytest.mark.parametrize("name", formats.GGUF_BLOCKS)
def test_ggml_kernels_write_what_gguf_reads(name: str) -> None:
    blocks = ggml_kernels.quantize(matrix().numpy(), name)
    assert blocks.shape == (24, gguf.quants.quant_shape_to_byte_shape((24, 512), gguf.GGMLQuantizationType[name])[1])


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_numpy_fallback_agrees_with_the_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix().numpy()
    kernels = ggml_kernels.quantize(weight, name)
    monkeypatch.setattr(ggml_kernels, "library", lambda: None)
    fallback = ggml_kernels.quantize(weight, name)
    kind = gguf.GGMLQuantizationType[name]
    one, other = gguf.quants.dequantize(kernels, kind), gguf.quants.dequantize(fallback, kind)
    assert np.abs(one - weight).mean() == pytest.approx(np.abs(other - weight).mean(), rel=1e-3)


def test_fallback_names_what_it_cannot_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_kernels, "library", lambda: None)
    with pytest.raises(FormatError, match="install xllamacpp"):
        ggml_kernels.quantize(matrix().numpy(), "Q4_K")


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match="no multiple of its block of 256"):
        formats.get("Q6_K").fit(matrix(4, 576))
    assert not formats.get("Q4_K").accepts((4, 576))
    assert formats.get("Q4_0").accepts((4, 576))
    assert not formats.get("int4-g128").accepts((4, 576))


def test_unknown_format_suggests_the_nearest() -> None:
    with pytest.raises(FormatError, match="Q4_0"):
        formats.get("q4_0")


@pytest.mark.parametrize("name", [name for name in GRIDDED if name.startswith("int")])
def test_integers_unpack_as_compressed_tensors_does(name: str) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    kind = formats.get(name)
    packed = kind.fit(matrix())
    group = None if "channel" in name else int(name.split("-g")[1].split("-")[0])
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(
            num_bits=kind.bits,  # type: ignore[attr-defined]
            symmetric="asym" not in name,
            strategy="channel" if group is None else "group",
            group_size=group,
        ),
    )
    theirs = BaseCompressor.get_value_from_registry("pack-quantized").decompress(dict(packed.parts), scheme)["weight"]
    assert torch.equal(theirs.float(), packed.dequantize())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(GRIDDED), st.integers(1, 9), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_rounding_is_bounded_and_idempotent(name: str, rows: int, size: float, seed: int) -> None:
    kind, weight = formats.get(name), matrix(rows, 256, seed) * size
    packed = kind.fit(weight)
    values = packed.dequantize()
    assert bool(values.isfinite().all())
    assert (values - weight).norm() <= 0.5 * weight.norm()
    again = kind.recode(packed, kind.grid(packed).nearest(values)).dequantize()
    assert torch.allclose(again, values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", GRIDDED)
def test_zero_matrix_stays_zero(name: str) -> None:
    values = formats.get(name).fit(torch.zeros(8, 256)).dequantize()
    assert bool((values.abs() <= 1e-6).all())
