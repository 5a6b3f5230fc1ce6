"""Counted operations: products, attention, transforms, with their backward passes."""

from __future__ import annotations

import pytest
import torch

from featherweight.train.flops import flops_of


def test_products_and_their_gradients() -> None:
    left, right = torch.randn(4, 5, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    assert flops_of(lambda: left @ right) == 2 * 4 * 5 * 6
    assert flops_of(lambda: (left @ right).sum().backward()) == 3 * 2 * 4 * 5 * 6


def test_transforms() -> None:
    signal = torch.randn(3, 64)
    assert flops_of(lambda: torch.fft.rfft(signal)) == pytest.approx(2.5 * 3 * 64 * 6)
    assert flops_of(lambda: torch.fft.irfft(torch.fft.rfft(signal), n=64)) == pytest.approx(2 * 2.5 * 3 * 64 * 6)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_counts_on_a_processor_too(causal: bool) -> None:
    states = torch.randn(2, 3, 16, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert flops_of(lambda: attend(states, states, states, is_causal=causal)) == 2 * 2 * 2 * 3 * 16 * 16 * 8
