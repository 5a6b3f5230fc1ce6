"""Merging takes the memory of some tensors and a page, not that of models."""

from __future__ import annotations

from pathlib import Path

import pytest

import featherweight as fw
from featherweight.core.memory import forget_peak, give_back_memory, peak_memory, resident_memory
from featherweight.testing.tiny import tiny_model
from fine_tunes import change, fine_tune

MB = 10**6
MODEL = 180 * MB  # of which the largest tensor is 11.5 MB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "most"), [("orthogonal-deltas", 120 * MB), ("linear", 120 * MB), ("ties", 180 * MB)]
)
def test_peak(tmp_path: Path, method: str, most: int) -> None:
    """Base, two fine-tunes and the result are four models."""
    if not forget_peak():
        pytest.skip("the system does not let a process reset its peak memory")
    base = tiny_model(tmp_path, hidden_size=1024, intermediate_size=2816, num_hidden_layers=5, head_dim=64)
    models = [fine_tune(base, tmp_path / f"ft-{seed}", change(base, seed)) for seed in range(2)]
    assert (base / "model.safetensors").stat().st_size > MODEL
    fw.merge(base, models, tmp_path / "warm", method=method)
    give_back_memory()
    before = resident_memory()
    forget_peak()
    fw.merge(base, models, tmp_path / "out", method=method)
    assert peak_memory() - before < most
