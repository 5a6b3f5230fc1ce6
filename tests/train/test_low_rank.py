"""Fused LoRA layers: PEFT's function and gradients, and PEFT's own layer wherever there is more to compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from featherweight.core.source import open_folder
from featherweight.train.frozen_module import frozen_module
from featherweight.train.low_rank import fused, plain


def adapted(module: nn.Module, **changes: Any) -> Any:
    torch.manual_seed(0)
    targets = changes.pop("target_modules", ["q_proj", "down_proj"])
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, **changes)
    return peft.get_peft_model(module, config).train()


def results(module: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradient of everything that trains."""
    module.zero_grad()
    torch.manual_seed(1)
    logits = module(input_ids=ids).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), {name: each.grad.clone() for name, each in module.named_parameters() if each.requires_grad}


def assert_same(module: Any, ids: torch.Tensor, tolerance: float) -> None:
    logits, gradients = results(module, ids)
    with fused(module) as count:
        assert count > 0
        fused_logits, fused_gradients = results(module, ids)
    torch.testing.assert_close(fused_logits, logits, rtol=tolerance, atol=tolerance)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, rtol=1e-3 * bool(tolerance), atol=tolerance)
    again, _ = results(module, ids)
    assert torch.equal(again, logits)  # PEFT's layers are back


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.arange(24).reshape(2, 12)


@pytest.mark.parametrize("base", ["dense", "stored", "Q4_1"])
def test_it_computes_what_peft_computes(tiny: Path, ids: torch.Tensor, base: str) -> None:
    assert_same(adapted(frozen_module(open_folder(tiny), base)), ids, 2e-4)


def test_beside_a_base_in_half_precision_it_is_at_least_as_exact(tiny: Path, ids: torch.Tensor) -> None:
    model = open_folder(tiny)
    exact, exact_gradients = results(adapted(model.module(torch.bfloat16).float()), ids)
    half = adapted(model.module(torch.bfloat16))
    assert half.base_model.model.model.layers[0].mlp.down_proj.lora_A["default"].weight.dtype == torch.float32
    theirs, their_gradients = results(half, ids)
    with fused(half):
        ours, our_gradients = results(half, ids)
    assert (ours - exact).norm() <= 1.2 * (theirs - exact).norm()
    for name, gradient in exact_gradients.items():
        assert (our_gradients[name] - gradient).norm() <= 1.5 * (their_gradients[name] - gradient).norm()


def test_no_copy_in_another_precision_is_kept(tiny: Path, ids: torch.Tensor) -> None:
    half = adapted(open_folder(tiny).module(torch.bfloat16))
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with fused(half), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        half.base_model.model.model.layers[0].mlp.down_proj(torch.ones(8, 256, dtype=torch.bfloat16))
    assert not [each for each in kept if each.dtype == torch.float32 and each.shape == (8, 256)]


def test_an_adapter_that_is_zero_changes_no_bit(tiny: Path, ids: torch.Tensor) -> None:
    model = open_folder(tiny)
    module = peft.get_peft_model(model.module(), peft.LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad(), fused(module):
        assert torch.equal(module(input_ids=ids).logits, model.module()(input_ids=ids).logits)


def two_adapters(module: Any) -> None:
    module.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    module.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize(
    ("changes", "then"),
    [
        ({"lora_dropout": 0.5}, None),
        ({"use_dora": True}, None),
        ({"lora_bias": True}, None),
        ({}, two_adapters),
        ({}, lambda module: module.base_model.disable_adapter_layers()),
        ({}, lambda module: module.merge_adapter()),
        ({}, lambda module: module.base_model.model.model.layers.requires_grad_(True)),
        ({}, lambda module: module.base_model.model.model.layers[0].mlp.down_proj.to(torch.float64)),
    ],
    ids=["dropout", "dora", "lora bias", "two adapters", "disabled", "merged", "trained base", "another dtype"],
)
def test_whoever_computes_more_stays_with_peft(
    tiny: Path, changes: dict[str, Any], then: Callable[[Any], Any] | None
) -> None:
    module = adapted(open_folder(tiny).module(), **changes)
    if then:
        then(module)
    layer = module.base_model.model.model.layers[0].mlp.down_proj
    assert not plain(layer, torch.ones(1, layer.in_features))


def test_it_looks_again_at_every_call(tiny: Path, ids: torch.Tensor) -> None:
    module = adapted(open_folder(tiny).module())
    plain_logits = open_folder(tiny).module()(input_ids=ids).logits
    with fused(module), module.disable_adapter():
        assert torch.equal(module(input_ids=ids).logits, plain_logits)
    dropping = adapted(open_folder(tiny).module(), lora_dropout=0.5)
    assert_same(dropping, ids, 0.0)
    assert_same(dropping.eval(), ids, 2e-4)


def test_gradients_agree_with_differences() -> None:
    layer = peft.get_peft_model(
        nn.ModuleDict({"only": nn.Linear(5, 3)}), peft.LoraConfig(r=2, target_modules=["only"], init_lora_weights=False)
    ).double()
    from featherweight.train.frozen import whole
    from featherweight.train.low_rank import adapted_product

    one = layer.base_model.model["only"]
    a, b = one.lora_A["default"].weight, one.lora_B["default"].weight
    x = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    base = one.get_base_layer()

    def function(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return adapted_product(x, a, b, 0.7, whole(base.weight.detach()), base.bias.detach())

    assert torch.autograd.gradcheck(function, (x, a, b))
