"""GPart's layer and map in a model: gradients, what autograd keeps, merging, dropout, scopes, biases, dtypes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import transformers

from featherweight.core.errors import AdapterError
from featherweight.core.partition import VERSIONS, Partition
from featherweight.models.gpart_layer import ChangedLinear, Dropout, GPartLayer, Stretch, changed_linear
from featherweight.models.gpart_layout import block_of, share_of
from gpart_models import IDS, adapted, layers_of, linears, llama, logits, stretch_of, theta_of


@pytest.mark.parametrize("backend", VERSIONS)
def test_zeros_change_nothing(backend: str) -> None:
    wrapped = adapted(random=False, backend=backend)
    assert not theta_of(wrapped).any()
    assert torch.equal(logits(wrapped), logits(llama()))


@pytest.mark.parametrize("scope", ["model", "transformer_block"])
@pytest.mark.parametrize("backend", VERSIONS)
def test_trained_numbers_are_exactly_d_and_learn_from_zero(backend: str, scope: str) -> None:
    wrapped = adapted(random=False, backend=backend, scope=scope)
    assert wrapped.get_nb_trainable_parameters()[0] == 300
    wrapped(IDS, labels=IDS).loss.backward()
    gradient = theta_of(wrapped).grad
    assert gradient.isfinite().all()
    assert (gradient != 0).sum() > 290
    assert all(each.grad is None for name, each in wrapped.named_parameters() if "gpart" not in name)


@pytest.mark.parametrize("backend", VERSIONS)
@pytest.mark.parametrize("scope", ["model", "transformer_block"])
def test_gradient_is_that_of_full_fine_tuning_through_the_map(backend: str, scope: str) -> None:
    wrapped = adapted(backend=backend, scope=scope)
    wrapped(IDS, labels=IDS).loss.backward()
    full = copy.deepcopy(wrapped).merge_and_unload().requires_grad_(True)
    full(IDS, labels=IDS).loss.backward()
    expected = torch.zeros(300)
    for name, layer in wrapped.base_model.model.named_modules():
        if isinstance(layer, GPartLayer):
            stretch = stretch_of(layer)
            last = stretch.first + stretch.map.groups
            expected[stretch.first : last] += stretch.map.reduce(
                full.get_submodule(name).weight.grad.flatten(), stretch.start
            )
    assert torch.allclose(theta_of(wrapped).grad, expected, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_gradcheck(share: float, transposed: bool) -> None:
    stretch = Stretch(Partition(100, 9, 3), 0, 20, (5, 4) if not transposed else (4, 5))
    inputs = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    theta = torch.randn(9, dtype=torch.float64, requires_grad=True)
    dropout = Dropout(11, share) if share else None
    assert torch.autograd.gradcheck(changed_linear, (inputs, theta, stretch, dropout, transposed))


def test_stateless_and_kept_map_agree() -> None:
    hashed = Partition(1000, 50, 42)
    kept = dataclasses.replace(hashed, index=hashed.of(0, 1000).int())
    inputs, theta = torch.randn(7, 20), torch.randn(50)
    found = []
    for linear_map in (hashed, kept):
        ours = theta.clone().requires_grad_()
        loss = changed_linear(inputs, ours, Stretch(linear_map, 0, 100, (30, 20)), None, False).square().sum()
        loss.backward()
        found.append((loss, ours.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    plain = theta.clone().requires_grad_()
    weight = (plain * hashed.scales.float())[hashed.of(100, 700)].view(30, 20)
    expected = torch.nn.functional.linear(inputs, weight).square().sum()
    expected.backward()
    assert torch.allclose(found[0][0], expected, rtol=1e-5)
    assert torch.allclose(found[0][1], plain.grad, rtol=1e-4, atol=1e-4)


def test_only_input_and_vector_are_saved() -> None:
    stretch, saved = Stretch(Partition(5000, 60, 42), 0, 100, (40, 50)), []
    inputs, theta = torch.randn(3, 50, requires_grad=True), torch.randn(60, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        changed_linear(inputs, theta, stretch, Dropout(1, 0.1), False)
    assert sorted(each.numel() for each in saved) == [60, 150]


def test_twice_differentiated_is_refused() -> None:
    theta = torch.randn(9, requires_grad=True)
    result = ChangedLinear.apply(torch.randn(3, 4), theta, Stretch(Partition(20, 9), 0, 0, (5, 4)), None, False)
    (gradient,) = torch.autograd.grad(result.square().sum(), theta, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("backend", VERSIONS)
def test_merging_and_back(backend: str) -> None:
    wrapped, base = adapted(backend=backend), llama()
    before = logits(wrapped)
    assert (before - logits(base)).abs().max() > 0.1
    wrapped.merge_adapter()
    assert torch.allclose(logits(wrapped), before, atol=1e-4)
    wrapped.unmerge_adapter()
    assert torch.allclose(logits(wrapped), before, atol=1e-5)
    for layer, (name, _) in zip(layers_of(wrapped), linears(base), strict=True):
        assert torch.allclose(layer.linear.weight, base.get_submodule(name).weight, atol=1e-5)
    merged = wrapped.merge_and_unload()
    assert not any(isinstance(each, GPartLayer) for each in merged.modules())
    assert torch.allclose(logits(merged), before, atol=1e-4)


def test_merged_change_is_the_map_of_the_vector() -> None:
    wrapped = adapted()
    changes = torch.cat([layer.get_delta_weight("default").flatten() for layer in layers_of(wrapped)])
    linear_map = stretch_of(next(layers_of(wrapped))).map
    assert torch.equal(changes, linear_map.expand(theta_of(wrapped).detach(), 0, linear_map.total))
    assert linear_map.total == len(changes)


def test_safe_merge_refuses_nan_and_leaves_the_weights() -> None:
    wrapped = adapted()
    with torch.no_grad():
        theta_of(wrapped)[3] = torch.nan
    with pytest.raises(AdapterError, match="NaNs detected"):
        wrapped.merge_adapter(safe_merge=True)
    assert torch.equal(logits(wrapped.unload()), logits(llama()))


def test_dropout_leaves_out_entries_in_training_only() -> None:
    wrapped = adapted(dropout=0.4)
    assert torch.equal(logits(wrapped), logits(adapted()))
    wrapped.train()
    torch.manual_seed(0)
    first = logits(wrapped)
    assert not torch.allclose(logits(wrapped), first)
    torch.manual_seed(0)
    assert torch.equal(logits(wrapped), first)


def test_dropout_keeps_the_mean_and_its_share() -> None:
    values = torch.ones(200_000)
    dropped = Dropout(5, 0.25)(values)
    assert abs(float((dropped == 0).double().mean()) - 0.25) < 0.01
    assert abs(float(dropped.mean()) - 1) < 0.01


def test_checkpointed_blocks_draw_the_same_dropout() -> None:
    gradients = []
    for checkpointed in (False, True):
        wrapped = adapted(dropout=0.4).train()
        if checkpointed:
            wrapped.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(0)
        wrapped(IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append(theta_of(wrapped).grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_blocks_share_the_numbers_evenly() -> None:
    wrapped = adapted(dimension=302, scope="transformer_block", target_modules=["q_proj", "v_proj"])
    spans = {(stretch_of(each).first, stretch_of(each).map.groups) for each in layers_of(wrapped)}
    assert sorted(spans) == [(0, 101), (101, 101), (202, 100)]
    seeds = {stretch_of(each).map.seed for each in layers_of(wrapped)}
    assert seeds == {42, 43, 44}
    assert [share_of(10, 4, ordinal) for ordinal in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.3.mlp.up_proj", "model.layers.3"),
        ("encoder.block.0.layer.1.wi", "encoder.block.0"),
        ("lm_head", ""),
    ],
)
def test_block_of(name: str, block: str) -> None:
    assert block_of(name) == block


def test_biases_follow_their_weights() -> None:
    base = llama(attention_bias=True)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    plain = logits(base)
    wrapped = adapted(base=base, include_bias=True, target_modules=["q_proj", "k_proj"])
    places = [(stretch_of(each).start, stretch_of(each).stop) for each in layers_of(wrapped)]
    assert places[:2] == [(0, 1024), (1024 + 32, 1024 + 32 + 512)]
    before = logits(wrapped)
    wrapped(IDS, labels=IDS).loss.backward()
    assert theta_of(wrapped).grad.count_nonzero() == 300
    assert torch.allclose(logits(wrapped.merge_and_unload()), before, atol=1e-4)
    assert not torch.allclose(plain, before, atol=1e-2)


def test_biases_have_no_lora() -> None:
    wrapped = adapted(base=llama(attention_bias=True), include_bias=True, target_modules=["q_proj"])
    assert not wrapped.supports_lora_conversion()
    assert adapted().supports_lora_conversion()


def test_conv1d_is_stored_the_other_way_round() -> None:
    torch.manual_seed(0)
    shape = transformers.GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    wrapped = adapted(base=transformers.GPT2LMHeadModel(shape).eval(), target_modules=["c_attn"])
    before = logits(wrapped)
    assert torch.allclose(logits(wrapped.merge_and_unload()), before, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_base_keeps_the_vector_in_fp32(dtype: torch.dtype) -> None:
    wrapped = adapted(base=llama().to(dtype))
    assert theta_of(wrapped).dtype == torch.float32
    result = wrapped(IDS, labels=IDS)
    assert result.logits.dtype == dtype
    result.loss.backward()
    assert theta_of(wrapped).grad.dtype == torch.float32
    assert torch.allclose(logits(wrapped).float(), logits(adapted()), atol=1.0)


def test_autocast_trains() -> None:
    wrapped = adapted(random=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = wrapped(IDS, labels=IDS).loss
    loss.backward()
    found, reference = theta_of(wrapped).grad.clone(), adapted(random=False)
    reference(IDS, labels=IDS).loss.backward()
    assert torch.nn.functional.cosine_similarity(found, theta_of(reference).grad, dim=0) > 0.99
