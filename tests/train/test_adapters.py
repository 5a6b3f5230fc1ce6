"""Adapters on encoder-decoders and on fully trained modules: trained, folded, put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import peft
import torch
import transformers

from featherweight.core.attach import attach
from featherweight.core.examples import Example
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.train.adapters import merged
from featherweight.train.loop import Schedule
from featherweight.train.trainer import Hooks, Pace, Trainer


def tiny_t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval().requires_grad_(False)


def repeats(module: Any, batch: Any) -> tuple[torch.Tensor, int]:
    """The loss of an encoder-decoder that is to say again what it read."""
    count = int((batch.labels != -100).sum())
    return module(input_ids=batch.ids, labels=batch.labels).loss * count, count


def test_an_encoder_decoder() -> None:
    draw = np.random.default_rng(0)
    rows = PackedRows(
        [Example(draw.integers(1, 64, 9).astype(np.int32), np.ones(9, dtype=np.bool_), "x") for _ in range(16)], 9,
        share=False,
    )  # fmt: skip
    base, run = tiny_t5(), Run()
    before = {name: each.clone() for name, each in base.named_parameters()}
    config = peft.LoraConfig(r=4, target_modules=["q", "v", "wi"], modules_to_save=["wo"], task_type="SEQ_2_SEQ_LM")
    adapted = attach(base, config, run.generator("init"))
    ids = torch.from_numpy(rows.batch([0]).ids.numpy())
    start = adapted(input_ids=ids, labels=ids).logits
    assert torch.equal(start, tiny_t5()(input_ids=ids, labels=ids).logits)
    course = Trainer(adapted, rows, Pace(Schedule(12, 1e-2), batch=8), run, hooks=Hooks(repeats)).train()
    assert course.losses[-1] < course.losses[0]
    trained = adapted(input_ids=ids, labels=ids).logits.detach()
    folded = tiny_t5()
    changed = dict(merged(adapted))
    assert set(changed) > {
        "encoder.block.0.layer.1.DenseReluDense.wo.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
    }
    folded.load_state_dict(changed, strict=False)
    again = folded(input_ids=ids, labels=ids).logits.detach()
    torch.testing.assert_close(again, trained, rtol=1e-5, atol=1e-5 * float(trained.abs().max()))
    for name, each in adapted.get_base_model().named_parameters():
        known = name.replace(".base_layer", "").replace(".original_module", "")
        if known in before and "modules_to_save" not in name:
            assert torch.equal(each, before[known]), f"{name} was changed in place"
