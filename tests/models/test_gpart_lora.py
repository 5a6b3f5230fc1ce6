"""GPart as LoRA: what is lost is what the singular values say, and stock PEFT loads the result."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import rich.console
import torch

from featherweight.core.errors import AdapterError
from featherweight.models.gpart_lora import to_lora
from gpart_models import adapted, layers_of, llama, logits, theta_of


def test_full_rank_loses_nothing(tmp_path: Path) -> None:
    wrapped = adapted(target_modules=["q_proj", "o_proj"])
    found = to_lora(wrapped, 32)
    assert found.lost_in_all < 1e-5
    found.save(tmp_path / "lora")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "lora")
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


def test_a_share_keeps_that_much() -> None:
    found = to_lora(adapted(), 0.9)
    assert found.lost_in_all < 0.1**0.5
    assert len(set(found.config.rank_pattern.values())) > 1


def test_the_loss_is_printed() -> None:
    console = rich.console.Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_lora(adapted(), 8).table())
    text = console.export_text()
    assert "model.layers.0.self_attn.q_proj" in text
    assert "in all" in text


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
