"""MatryoshkaLoRA as a PEFT method: PEFT's own questions to a new tuner, on two decoders and an encoder-decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from featherweight.core.errors import AdapterError, RecipeError
from featherweight.core.nested import component_weights, powers_of_two
from featherweight.models.matryoshka_config import MatryoshkaLoraConfig
from nested_adapters import HEAD, TARGETS, adapted, base_of, configured, fresh, kinds, logits, near

serves = pytest.mark.parametrize("serve", ["drop_weight", "keep_weight"])


@kinds
@pytest.mark.parametrize("objective", ["sum_of_outputs", "sum_of_losses"])
@pytest.mark.parametrize("init", ["peft", "paper"])
def test_a_new_adapter_changes_nothing(kind, objective, init) -> None:
    model = adapted(kind, init_lora_weights=True, init=init, objective=objective)
    expected = logits(fresh(kind))
    assert torch.equal(logits(model), expected)
    model.train()
    assert torch.equal(logits(model), expected)
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    bound = 8**-0.5 if init == "paper" else layer.in_features**-0.5
    greatest = layer.lora_A["default"].weight.abs().max()
    assert 0.8 * bound < greatest <= bound


@kinds
def test_one_rank_alone_is_plain_lora(kind) -> None:
    model = adapted(kind, ranks=[8], objective="sum_of_outputs")
    plain = fresh(kind)
    config = peft.LoraConfig(
        r=8, lora_alpha=8**0.5, target_modules=TARGETS[kind], task_type=model.peft_config["default"].task_type
    )
    plain = peft.get_peft_model(plain, config).eval()
    plain.load_state_dict(model.state_dict())
    for mode in (True, False):
        assert near(logits(model.train(mode)), logits(plain.train(mode)), 1e-6)


@serves
@pytest.mark.parametrize("scaling", ["none", "rank", "sqrt"])
def test_serves_the_prefix(serve, scaling) -> None:
    model = adapted("llama", serve=serve, scaling=scaling)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(2, 5, 32)
    every = torch.tensor(component_weights(8, powers_of_two(8), scaling))
    for rank in range(9):
        model.set_rank(rank)
        scale = {"none": 1.0, "rank": 1 / max(rank, 1), "sqrt": max(rank, 1) ** -0.5}[scaling]
        weights = every[:rank] if serve == "keep_weight" else torch.full((rank,), scale)
        expected = layer.base_layer(x) + (x @ a[:rank].T * weights) @ b[:, :rank].T
        assert near(layer(x), expected, 1e-6)


@kinds
def test_training_for_the_sum_of_outputs_computes_the_sum(kind) -> None:
    model = adapted(kind, objective="sum_of_outputs")
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    a, b, x = layer.lora_A["default"].weight, layer.lora_B["default"].weight, torch.randn(4, layer.in_features)
    nested = sum((x @ a[:r].T) @ b[:, :r].T * r**-0.5 for r in (1, 2, 4, 8))
    assert near(layer.train()(x), layer.base_layer(x) + nested, 1e-4)
    with model.at_rank("trained"):
        assert torch.equal(layer.eval()(x), layer.train()(x))
    kept = adapted(kind, objective="sum_of_outputs", serve="keep_weight")
    assert near(logits(kept), logits(kept.train()), 1e-6)


@kinds
@serves
def test_saved_and_loaded(kind, serve, tmp_path) -> None:
    model = adapted(kind, serve=serve, ranks=[2, 8], init="paper", divide_by_ranks=True)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh(kind), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    for rank in (1, 4):
        loaded.set_rank(rank), model.set_rank(rank)
        assert torch.equal(logits(loaded), logits(model))
    config = loaded.peft_config["default"]
    assert isinstance(config, MatryoshkaLoraConfig)
    assert (config.ranks, config.scaling, config.init, config.serve) == ([2, 8], "sqrt", "paper", serve)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in tensors)
    assert not [name for name in model.state_dict() if "lora_" in name and not name.endswith("default.weight")]
    assert not [name for name, _ in model.named_buffers() if "lora" in name]


@kinds
def test_loaded_on_meta_device_first(kind, tmp_path) -> None:
    model = adapted(kind)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh(kind), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded), logits(model))


@kinds
@serves
@pytest.mark.parametrize("safe", [False, True])
def test_merged_and_unmerged(kind, serve, safe) -> None:
    model, base = adapted(kind, serve=serve), logits(fresh(kind))
    model.set_rank(4)
    expected = logits(model)
    assert not near(expected, base, 1e-3)
    model.merge_adapter(safe_merge=safe)
    assert near(logits(model), expected)
    with pytest.raises(AdapterError, match="is merged into the weights; call unmerge_adapter"):
        model.set_rank(8)
    model.unmerge_adapter()
    assert near(logits(model), expected)
    model.set_rank(0)
    assert near(logits(model), base)
    model.set_rank(4)
    merged = model.merge_and_unload(safe_merge=safe)
    assert near(logits(merged), expected)
    assert not [module for module in merged.modules() if hasattr(module, "lora_A")]


def test_merging_refuses_ranks_by_row_and_nan() -> None:
    model = adapted("llama")
    model.set_rank([1, 2, 8])
    with pytest.raises(AdapterError, match="ranks by row: cannot be merged"):
        model.merge_adapter()
    model.set_rank(None)
    next(iter(parameter for parameter in model.parameters() if parameter.requires_grad)).data[:] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)


@kinds
def test_several_adapters(kind, tmp_path) -> None:
    model = adapted(kind)
    torch.manual_seed(7)
    model.add_adapter("other", configured(kind, r=4, scaling="none"))
    first = logits(model)
    model.set_adapter("other")
    second = logits(model)
    assert not near(first, second, 1e-4)
    model.set_rank(2)
    lower = logits(model)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)  # the rank of one is not the other's
    with pytest.raises(AdapterError, match="rank 8: the adapter has ranks up to 4; give 1 to 4, or 0"):
        model.set_rank(8, "other")
    mixed = logits(model, adapter_names=["other", "__base__", "default"])
    assert near(mixed, torch.stack([lower[0], logits(fresh(kind))[1], first[2]]), 1e-6)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh(kind), tmp_path)
    loaded.load_adapter(tmp_path / "other", "other")
    assert torch.equal(logits(loaded), first)
    loaded.set_adapter("other")
    assert torch.equal(logits(loaded), second)
    model.delete_adapter("other")
    assert torch.equal(logits(model), first)
    with pytest.raises(AdapterError, match="adapter 'other': is unknown; use one of default"):
        model.set_rank(2, "other")


@kinds
@serves
def test_ranks_by_row(kind, serve) -> None:
    model, alone = adapted(kind, serve=serve), {}
    for rank in (0, 1, 2, 8):
        model.set_rank(rank)
        alone[rank] = logits(model)
    model.set_rank([8, 0, 2])
    assert near(logits(model), torch.stack([alone[8][0], alone[0][1], alone[2][2]]), 1e-6)
    model.set_rank([0, 0, 0])
    assert near(logits(model), alone[0], 1e-6)
    with pytest.raises(AdapterError, match="ranks of 3 rows: a layer got an input of 2 rows"):
        logits(model, rows=2)
    model.set_rank(1)
    named = logits(model, adapter_names=["default@8", "default", "__base__"])
    assert near(named, torch.stack([alone[8][0], alone[1][1], alone[0][2]]), 1e-6)
    assert torch.equal(logits(model), alone[1])  # what was set stays set


@pytest.mark.parametrize("names", [["default@nine"] * 3, ["default@"] * 3])
def test_refuses_a_rank_that_is_no_number(names) -> None:
    with pytest.raises(AdapterError, match=r"has no number after the @; write for example a@8"):
        logits(adapted("llama"), adapter_names=names)


@kinds
@pytest.mark.parametrize("search", [{"num_beams": 3}, {"num_beams": 1}])
def test_generates_with_a_rank_for_each_row(kind, search) -> None:
    model = adapted(kind)
    ids = torch.randint(3, 48, (2, 5), generator=torch.Generator().manual_seed(2))
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **search}
    alone = []
    for row, rank in zip(ids.split(1), (2, 8), strict=True):
        model.set_rank(rank)
        alone.append(model.generate(input_ids=row, attention_mask=row * 0 + 1, **settings)[0])
    model.set_rank([2, 8])
    together = model.generate(input_ids=ids, attention_mask=ids * 0 + 1, **settings)
    assert torch.equal(together, torch.stack(alone))
    names = ["default@2", "default@8"]
    named = model.generate(input_ids=ids, attention_mask=ids * 0 + 1, adapter_names=names, **settings)
    assert torch.equal(named, together)


@kinds
def test_several_samples_of_each_row(kind) -> None:
    model = adapted(kind)
    model.set_rank([2, 8])
    ids = torch.randint(3, 48, (2, 5), generator=torch.Generator().manual_seed(2))
    found = model.generate(
        input_ids=ids, attention_mask=ids * 0 + 1, do_sample=True, num_return_sequences=3, max_new_tokens=2
    )
    assert len(found) == 6


@kinds
def test_disabled(kind) -> None:
    model = adapted(kind)
    expected, base = logits(model), logits(fresh(kind))
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), expected)
    model.merge_adapter()
    with model.disable_adapter():
        assert near(logits(model), base)


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(kind, dtype) -> None:
    model = adapted(kind, dtype)
    kept = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert kept == {torch.float32}  # as PEFT keeps adapters of halved models
    expected = logits(model)
    assert expected.dtype == dtype
    assert torch.isfinite(expected).all()
    model.merge_adapter()
    assert near(logits(model).float(), expected.float(), 0.1 * float(expected.float().abs().max()))
    narrow = peft.get_peft_model(fresh(kind, dtype), configured(kind), autocast_adapter_dtype=False).eval()
    assert {parameter.dtype for parameter in narrow.parameters()} == {dtype}
    narrow.set_rank(2)
    assert logits(narrow).dtype == dtype


@kinds
def test_modules_to_save(kind, tmp_path) -> None:
    model = adapted(kind, modules_to_save=[HEAD[kind]])
    with torch.no_grad():
        base_of(model).get_output_embeddings().modules_to_save["default"].weight.add_(0.1)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(fresh(kind), tmp_path)
    assert torch.equal(logits(loaded), expected)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), logits(fresh(kind)))
    mixed = logits(loaded, adapter_names=["default@8", "__base__", "default@8"])
    assert near(mixed, torch.stack([expected[0], logits(fresh(kind))[1], expected[2]]), 1e-5)


@kinds
def test_only_the_adapter_learns(kind) -> None:
    model = adapted(kind, init_lora_weights=True).train()
    logits_of = model(**_training_inputs(kind))
    logits_of.loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(parameter.grad.abs().max() > 0 for parameter in model.parameters() if parameter.grad is not None)


def _training_inputs(kind: str) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 48, (2, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


@kinds
def test_gradients_under_checkpointing(kind) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = adapted(kind).train()
        if checkpointed:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        with model.at_rank(2):
            model(**_training_inputs(kind)).loss.backward()
        gradients.append([each.grad.clone() for each in model.parameters() if each.requires_grad])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_frozen_components_get_no_gradient() -> None:
    model = adapted("llama").train()
    for rank in range(1, 9):
        model.zero_grad()
        with model.at_rank(rank, learns_from=rank - 1):
            model(**_training_inputs("llama")).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                continue
            components = parameter.grad if "lora_A" in name else parameter.grad.T
            others = [index for index in range(8) if index != rank - 1]
            assert components[others].abs().max() == 0  # exactly
            assert components[rank - 1].abs().max() > 0


def test_ranks_by_layer(tmp_path) -> None:
    model = adapted("llama", rank_pattern={"down_proj": 4, "layers.1.self_attn.q_proj": 16})
    config = model.peft_config["default"]
    assert config.alpha_pattern == pytest.approx({"down_proj": 2.0, "layers.1.self_attn.q_proj": 4.0})
    assert config.nested_ranks == (1, 2, 4, 8, 16)
    layers = model.get_base_model().model.layers
    ranks = [layers[0].self_attn.q_proj, layers[1].self_attn.q_proj, layers[0].mlp.down_proj]
    assert [layer.lora_variant["default"].ranks for layer in ranks] == [(1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 4)]
    model.set_rank(16)
    whole = logits(model)
    model.set_rank(8)
    assert not near(logits(model), whole, 1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(fresh("llama"), tmp_path)), whole)


def test_scaled_by_pefts_own_means() -> None:
    model = adapted("llama")
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(3, 32)
    added = layer(x) - layer.base_layer(x)
    layer.scale_layer(0.5)
    assert near(layer(x) - layer.base_layer(x), 0.5 * added, 1e-6)
    layer.unscale_layer()
    assert near(layer(x) - layer.base_layer(x), added, 1e-6)


def test_copied_and_conv1d() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=48, n_embd=32, n_layer=1, n_head=2)
    base = transformers.GPT2LMHeadModel(config).eval()
    settings = {"r": 4, "target_modules": ["c_attn"], "init_lora_weights": False, "fan_in_fan_out": True}
    model = peft.get_peft_model(copy.deepcopy(base), MatryoshkaLoraConfig(**settings)).eval()
    model.set_rank(2)
    expected = logits(model)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    model.merge_adapter()
    assert near(logits(model), expected)
    assert not near(logits(base), expected, 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": [16]}, r"nested ranks \[16\]: must be between 1 and the adapter's rank, 8"),
        ({"lora_alpha": 3}, r"lora_alpha = 3: .*follows from r and the scaling; leave it out"),
        ({"scaling": "cube"}, r"scaling = 'cube': is unknown; use one of \['none', 'rank', 'sqrt'\]"),
        ({"objective": "best"}, r"objective = 'best': is unknown"),
        ({"serve": "all"}, r"serve = 'all': is unknown"),
        ({"init_lora_weights": "pissa"}, r"init_lora_weights = 'pissa': is unknown"),
        ({"use_rslora": True}, r"use_rslora of a MatryoshkaLoRA: is not supported; leave it out"),
        ({"use_dora": True}, r"use_dora of a MatryoshkaLoRA: is not supported"),
        ({"bias": "all"}, r"bias of a MatryoshkaLoRA: is not supported"),
    ],
)
def test_refuses_settings(changes, message) -> None:
    with pytest.raises(RecipeError, match=message):
        configured("llama", **changes)


def test_refuses_layers() -> None:
    with pytest.raises(AdapterError, match=r"rank 33 in the layer q_proj: which has 32 inputs .* at most 32"):
        adapted("llama", r=33)
    with pytest.raises(AdapterError, match=r"the layer embed_tokens: is a Embedding; target linear layers"):
        adapted("llama", target_modules=["embed_tokens"])


def test_refuses_mixtures() -> None:
    model = adapted("llama")
    refused: Callable[..., None] = model.add_weighted_adapter
    with pytest.raises(AdapterError, match="a mixture of nested adapters"):
        refused(["default"], [1.0], "mixed")
    with pytest.raises(AdapterError, match="rank -1"):
        model.set_rank(-1)
