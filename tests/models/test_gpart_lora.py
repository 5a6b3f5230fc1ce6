"""GPart as LoRA: what is lost is what the singular values say, and stock PEFT loads the result."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers

from featherweight.core.adapter_folder import PREFIX, write_adapter
from featherweight.core.errors import AdapterError
from featherweight.models.gpart_lora import to_lora
from gpart_models import adapted, layers_of, llama, logits, theta_of


def test_full_rank_loses_nothing(tmp_path: Path) -> None:
    wrapped = adapted(target_modules=["q_proj", "o_proj"])
    found = to_lora(wrapped, 32)
    assert found.lost_in_all < 1e-5
    write_adapter(found.adapter, tmp_path)
    again = peft.PeftModel.from_pretrained(llama(), tmp_path)
    assert again.peft_config["default"].peft_type == "LORA"
    assert torch.allclose(logits(again), logits(wrapped), atol=1e-4)


def test_loss_is_the_tail_of_the_singular_values() -> None:
    wrapped = adapted()
    found = to_lora(wrapped, 4)
    tails, totals = [], []
    for layer, lost in zip(layers_of(wrapped), found.lost.values(), strict=True):
        values = torch.linalg.svdvals(layer.get_delta_weight("default").double()).square()
        tails.append(values[4:].sum())
        totals.append(values.sum())
        assert lost == pytest.approx(float((tails[-1] / totals[-1]).sqrt()), rel=1e-4)
    assert found.lost_in_all == pytest.approx(float((sum(tails) / sum(totals)) ** 0.5), rel=1e-4)
    assert found.lost_in_all > 0.5  # a random partition has no low-rank structure


def test_factors_are_the_best_of_their_rank() -> None:
    """PEFT's own conversion, by a full decomposition, is no nearer."""
    wrapped = adapted()
    found = to_lora(wrapped, 4).adapter.factors
    _, theirs = peft.tuners.lora.conversion.convert_to_lora(wrapped, 4)
    for name, (a, b, scale) in found.items():
        product = theirs[f"{PREFIX}{name}.lora_B.weight"] @ theirs[f"{PREFIX}{name}.lora_A.weight"]
        torch.testing.assert_close(scale * b @ a, product, rtol=0, atol=1e-5)


def test_a_share_keeps_that_much() -> None:
    found = to_lora(adapted(), 0.9)
    assert max(found.lost.values()) <= 0.1**0.5
    assert len({each.rank for each in found.adapter.factors.values()}) > 1
    assert to_lora(adapted(), 1.0).lost_in_all < 1e-5


def test_values_of_the_base_are_not_needed() -> None:
    wrapped = adapted()
    expected = to_lora(wrapped, 4).adapter.factors
    for layer in layers_of(wrapped):
        layer.base_layer.to("meta")
    assert all(torch.equal(each.b, expected[name].b) for name, each in to_lora(wrapped, 4).adapter.factors.items())


def test_weights_stored_the_other_way_round() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=32)
    base = transformers.GPT2LMHeadModel(config).eval()
    wrapped = adapted(base=base, target_modules=["c_attn"])
    [layer], [(a, b, scale)] = layers_of(wrapped), to_lora(wrapped, 32).adapter.factors.values()
    assert (a.shape, b.shape) == ((32, 32), (96, 32))
    torch.testing.assert_close(scale * b @ a, layer.get_delta_weight("default").T, rtol=0, atol=1e-5)


def test_modules_that_were_trained_whole_are_carried() -> None:
    wrapped = adapted(target_modules=["q_proj"], modules_to_save=["lm_head"])
    found = to_lora(wrapped, 4).adapter
    assert found.config["modules_to_save"] == ["lm_head"]
    assert list(found.carried) == ["base_model.model.lm_head.weight"]


def test_refusals(tmp_path: Path) -> None:
    wrapped = adapted()
    biased = adapted(base=llama(attention_bias=True), include_bias=True, target_modules=["q_proj"])
    (tmp_path / "there").mkdir()
    for model, rank, name, sentence in (
        (wrapped, 17, "default", "rank 17 is not from 1 to 16, the smaller side of model.layers.0.self_attn.k_proj"),
        (wrapped, 0, "default", "rank 0 is not from 1"),
        (wrapped, 1.5, "default", "1.5 is no share"),
        (wrapped, 4, "other", "it is no GPart adapter of this model"),
        (biased, 4, "default", "it changes biases too"),
        (adapted(random=False), 4, "default", "its vector is zero"),
    ):
        with pytest.raises(AdapterError, match=sentence):
            to_lora(model, rank, name)
    assert theta_of(wrapped).any()
