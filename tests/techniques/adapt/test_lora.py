"""LoRA: neutral, conforming, folding, and its refusals."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.errors import RecipeError
from featherweight.core.source import open_folder
from featherweight.techniques.adapt.lora import Lora
from featherweight.testing import check_technique
from featherweight.testing.tiny import tiny_model, tiny_run
from featherweight.train.adapters import fold, merged


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "phi3", "gemma3_text"])
def test_conforms(model_type: str) -> None:
    check_technique(Lora, Lora(steps=2, batch=2, rank=4, learning_rate=1e-2), model_type)


@pytest.mark.parametrize("changes", [{}, {"dora": True}, {"rank_stabilised": True, "dropout": 0.3}])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma3_text"])
def test_folded_computes_what_the_adapter_did(tmp_path, model_type: str, changes: dict) -> None:
    folder = tiny_model(tmp_path, model_type)
    model, run = open_folder(folder), tiny_run(folder)
    lora = Lora(steps=3, batch=2, rank=4, learning_rate=1e-2, **changes)
    adapted = lora.attach(model, run)
    lora.train(adapted, lora.rows(model, run), run)
    ids = run.calibration.ids[:2]
    with torch.no_grad():
        on = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            off = adapted(input_ids=ids).logits
        assert torch.equal(off, model.module()(input_ids=ids).logits)
        folded = fold(model, adapted, run).module()(input_ids=ids).logits
        assert torch.equal(adapted(input_ids=ids).logits, on)  # folding left the adapter as it was
    assert (on - off).abs().max() > 1e-3
    assert (folded - on).abs().max() < 1e-5 * on.abs().max().clamp(min=1)


def test_merged_names_are_the_models(tiny) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    adapted = Lora(rank=2, targets=("q_proj", "model.layers.1.mlp.up_proj")).attach(model, run)
    assert [name for name, _ in merged(adapted)] == [
        "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    ]  # fmt: skip


def test_refusals(tiny) -> None:
    model = open_folder(tiny)
    with pytest.raises(RecipeError, match=r"rank 65: is above the size of model\.layers\.0\.self_attn\..*64"):
        Lora(rank=65).peft_config(model)
    with pytest.raises(RecipeError, match=r"matches no linear.*'up_proj'"):
        Lora(targets=("upproj",)).peft_config(model)


def test_a_rounded_matrix_is_not_folded_into(tiny, tmp_path) -> None:
    from featherweight.techniques.quantize.rtn import Rtn

    model, run = open_folder(tiny), tiny_run(tiny)
    rounded = Rtn().apply(model, run)
    lora = Lora(steps=1, batch=2, rank=2, learning_rate=1e-2)
    with pytest.raises(RecipeError, match="it is rounded to .*adapt before the quantizer"):
        lora.apply(rounded, run)


def test_a_rate_a_length_and_a_file_are_the_fields_of_a_step(tmp_path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("Some text to learn by heart. " * 40)
    folder = tiny_model(tmp_path, tie_word_embeddings=True)
    model, run = open_folder(folder), tiny_run(folder)
    lora = Lora(data=str(file), steps=3, batch=2, rank=2, length=32)
    assert lora.outside()["data"] != Lora(data=str(folder / "config.json")).outside()["data"]
    assert lora.rows(model, run).length == 32
    assert lora.apply(model, run).fingerprint != model.fingerprint
    assert run.notes["updates"] == 3
