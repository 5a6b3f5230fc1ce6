"""Changes of stored matrices: nothing outside the mask moves, grids and levels stay, no change is no change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.checkpoint import Stored, values
from featherweight.core.errors import FormatError
from featherweight.core.formats import Packed, get
from featherweight.core.formats.composed import Summed
from featherweight.core.patched import Merged, Patchable, Separate, require_zero

BASES = ("Q4_0", "Q4_1", "Q2_K", "IQ4_NL", "int2-g32", "int3-g32-asym", "int4-channel", "BF16", "F32")
DELTAS = ("int4-g32", "int2-g32-asym", "Q8_0")


def random(seed: int, scale: float = 0.05) -> torch.Tensor:
    return scale * torch.randn(16, 256, generator=torch.Generator().manual_seed(seed))


def stored(name: str) -> Stored:
    packed = get(name).fit(random(0))
    return packed.parts["values"] if name in ("BF16", "F32") else packed


def patchable(base: str, delta: str | None) -> Patchable:
    return Merged(stored(base)) if delta is None else Separate(stored(base), delta)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("delta", [None, *DELTAS])
def test_no_delta_and_no_mask_change_nothing(base: str, delta: str | None) -> None:
    matrix = patchable(base, delta)
    every = torch.ones(16, 256, dtype=torch.bool)
    assert torch.equal(values(matrix.with_delta(torch.zeros(16, 256), every)), matrix.values)
    assert torch.equal(values(matrix.with_delta(random(1), ~every)), matrix.values)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("delta", [None, *DELTAS])
@settings(max_examples=8)
@given(st.floats(0, 1), st.integers(0, 3))
def test_nothing_outside_the_mask_moves(base: str, delta: str | None, share: float, seed: int) -> None:
    matrix = patchable(base, delta)
    mask = torch.rand(16, 256, generator=torch.Generator().manual_seed(seed)) < share
    changed = values(matrix.with_delta(random(seed + 1), mask))
    assert torch.equal(changed[~mask], matrix.values[~mask])
    assert int((changed != matrix.values).sum()) <= int(mask.sum())


@pytest.mark.parametrize("base", [name for name in BASES if name not in ("BF16", "F32")])
def test_merged_stays_on_the_frozen_grid(base: str) -> None:
    matrix = Merged(stored(base))
    changed = matrix.with_delta(random(1), torch.ones(16, 256, dtype=torch.bool))
    assert isinstance(changed, Packed)
    assert (changed.format, changed.nbytes) == (base, matrix.stored.nbytes)
    grid, before = get(base).grid(changed), get(base).grid(matrix.stored)
    assert torch.equal(grid.scale, before.scale)
    assert torch.equal(grid.minimum, before.minimum)
    error = (changed.dequantize() - (matrix.values + random(1))).abs()
    assert error.mean() < random(1).abs().mean()


def test_a_plain_matrix_takes_the_sum_in_its_own_type() -> None:
    every = torch.ones(16, 256, dtype=torch.bool)
    assert torch.equal(Merged(stored("F32")).with_delta(random(1), every), stored("F32") + random(1))
    assert Merged(stored("BF16")).with_delta(random(1), every).dtype == torch.bfloat16


@pytest.mark.parametrize(("delta", "bits"), [("int2-g32", 2), ("int3-g32-asym", 3), ("int4-g32", 4), ("Q4_0", 4)])
def test_a_separate_delta_has_few_levels_a_group(delta: str, bits: int) -> None:
    matrix = Separate(stored("int2-g32"), delta)
    changed = matrix.with_delta(random(1), torch.rand(16, 256) < 0.5)
    kind = get(changed.format)
    assert isinstance(kind, Summed)
    base, beside = kind.base_of(changed), kind.delta_of(changed)
    assert all(torch.equal(base.parts[part], matrix.stored.parts[part]) for part in base.parts)
    for group in beside.dequantize().reshape(-1, 32):
        assert len(group.unique()) <= 2**bits
    assert changed.nbytes == matrix.stored.nbytes + beside.nbytes


def test_a_delta_format_without_zero_is_refused() -> None:
    assert require_zero("int3-g64-asym") == "int3-g64-asym"
    for name in ("Q4_1", "IQ4_NL", "Q4_K"):
        with pytest.raises(FormatError, match="no exact zero"):
            require_zero(name)
    with pytest.raises(FormatError, match="unknown"):
        require_zero("int4-g31x")
