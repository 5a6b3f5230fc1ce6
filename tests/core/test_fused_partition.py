"""The compiled map against the eager one: on the GPU where there is one, and its code by itself everywhere."""

from __future__ import annotations

import shutil

import pytest
import torch

from featherweight.core import fused_partition
from featherweight.core.fused_partition import compiled, fused_expand, fused_reduce, gather, scatter
from featherweight.core.partition import Partition
from featherweight.core.splitmix import place_of

SEEDS = [(42, 0), (2**63 - 5, 123), (7, 10**9)]


@pytest.mark.parametrize(("seed", "start"), SEEDS)
def test_uncompiled_it_is_the_same_function(seed: int, start: int) -> None:
    groups = Partition(start + 5000, 301, seed).of(start, start + 5000)
    base, wrap = torch.tensor(place_of(seed, start)), 2**64 % 301
    theta, values = torch.randn(301), torch.randn(5000, dtype=torch.float64)
    assert torch.equal(gather(theta, base, 5000, 301, wrap), theta[groups])
    expected = torch.zeros(301, dtype=torch.float64).index_add(0, groups, values)
    assert torch.allclose(scatter(values, base, 301, wrap), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_compiled_for_the_cpu() -> None:
    compiled.cache_clear()
    for seed, start in SEEDS:
        groups = Partition(start + 3000, 301, seed).of(start, start + 3000)
        theta, values = torch.randn(301), torch.randn(3000, dtype=torch.float64)
        assert torch.equal(fused_expand(theta, seed, start, 3000), theta[groups])
        expected = torch.zeros(301, dtype=torch.float64).index_add(0, groups, values)
        assert torch.allclose(fused_reduce(values, seed, start, 301), expected)
    assert not fused_partition._failed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu() -> None:
    eager = Partition(300_000, 5000, 42)
    theta, values = torch.randn(5000), torch.randn(200_000)
    assert torch.equal(eager.of(0, 300_000, "cuda").cpu(), eager.of(0, 300_000))
    found = eager.expand(theta.cuda(), 1000, 201_000).cpu()
    assert torch.equal(found, eager.expand(theta, 1000, 201_000))
    assert torch.allclose(eager.reduce(values.cuda(), 1000).cpu(), eager.reduce(values, 1000), atol=1e-4)
    assert not fused_partition._failed


def test_a_compiler_that_fails_is_said_once_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(fused_partition, "compiled", broken)
    monkeypatch.setattr(fused_partition, "_failed", [])
    with pytest.warns(UserWarning, match="without a kernel of its own: no compiler"):
        assert fused_expand(torch.ones(3), 0, 0, 5) is None
    assert not fused_partition.usable(torch.device("cuda"))
