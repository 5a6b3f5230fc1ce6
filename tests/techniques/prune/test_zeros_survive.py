"""Which zeros of a pruned model are still zero after a quantizer: all of them where the grid has a zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featherweight.core.source import open_folder
from featherweight.techniques.prune.wanda import Wanda
from featherweight.techniques.quantize.gptq import Gptq
from featherweight.techniques.quantize.imatrix import Imatrix
from featherweight.techniques.quantize.rtn import Rtn
from featherweight.testing.tiny import tiny_model, tiny_run

KEPT = ["Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K", "int4-g64", "int4-g64-asym", "int8-channel", "int3-g32-asym", "BF16"]
LOST = ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS"]


def surviving(folder: Path, quantizer: Any, name: str) -> float:
    """Share of a half-pruned model's zeros that are zero after rounding."""
    pruned = Wanda(sparsity=0.5).apply(open_folder(folder), tiny_run(folder))
    rounded = quantizer(format=name).apply(pruned, tiny_run(folder))
    zeros, left = 0, 0
    for linear in pruned.architecture.linears():
        before = pruned.tensor(linear) == 0
        zeros += int(before.sum())
        left += int((rounded.tensor(linear)[before] == 0).sum())
    return left / zeros


@pytest.fixture(scope="module")
def folder(models_folder: Path) -> Path:
    return tiny_model(models_folder, hidden_size=256, num_attention_heads=8, num_hidden_layers=1)


@pytest.mark.parametrize("quantizer", [Rtn, Imatrix, Gptq])
@pytest.mark.parametrize("name", KEPT)
def test_all_zeros_survive_where_the_grid_has_zero(folder: Path, quantizer: Any, name: str) -> None:
    assert surviving(folder, quantizer, name) == 1


@pytest.mark.parametrize("quantizer", [Rtn, Imatrix, Gptq])
@pytest.mark.parametrize("name", LOST)
def test_hardly_any_survive_where_it_has_none(folder: Path, quantizer: Any, name: str) -> None:
    assert surviving(folder, quantizer, name) < 0.05
