"""Streaming: block by block gives what the whole module gives, bit for bit, on every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from featherweight.core.folding import equalize, fold_norms
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.core.stream import Visitor, head_weight, stream
from featherweight.testing.tiny import tiny_model, tiny_tokens


def test_equals_transformers(any_architecture: Path) -> None:
    model, tokens = open_folder(any_architecture), tiny_tokens(any_architecture).ids
    expected = AutoModelForCausalLM.from_pretrained(any_architecture, dtype=torch.float32)(tokens).logits
    assert torch.equal(model.module()(tokens).logits, expected)
    assert torch.equal(stream(model, tokens) @ head_weight(model).T, expected)


def test_rows_change_nothing(any_architecture: Path) -> None:
    model, tokens = open_folder(any_architecture), tiny_tokens(any_architecture).ids
    assert torch.allclose(stream(model, tokens, rows=3), stream(model, tokens), atol=1e-5)


def test_only_one_block_is_in_memory(tiny: Path) -> None:
    model = open_folder(tiny)
    loaded: list[int] = []

    class Count(Visitor):
        blocks: torch.nn.ModuleList

        def enter(self, index: int, block: torch.nn.Module) -> None:
            loaded.append(sum(1 for parameter in block.parameters() if parameter.device.type != "meta"))

        def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
            loaded.append(index)

    stream(model, tiny_tokens(tiny).ids, Count())
    assert loaded == [9, 0, 9, 1]


def test_changing_a_block_changes_what_follows(tiny: Path) -> None:
    model, tokens = open_folder(tiny), tiny_tokens(tiny).ids

    class Zero(Visitor):
        def enter(self, index: int, block: torch.nn.Module) -> None:
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                linear = block.get_submodule(name)
                linear.weight = torch.nn.Parameter(torch.zeros_like(linear.weight), requires_grad=False)

    skipped = stream(model, tokens, Zero())
    embedded = model.module().model.embed_tokens(tokens)
    norm = model.module().model.norm
    assert torch.allclose(skipped, norm(embedded), atol=1e-6)
    assert torch.equal(stream(model, tokens), stream(model, tokens, None))


def test_folding_keeps_the_function(any_architecture: Path) -> None:
    model, tokens = open_folder(any_architecture), tiny_tokens(any_architecture).ids
    folded = equalize(fold_norms(model))
    assert torch.allclose(folded.module()(tokens).logits, model.module()(tokens).logits, atol=2e-5)
    assert folded.fingerprint != model.fingerprint


def test_folded_norms_are_one(tiny: Path) -> None:
    folded = fold_norms(open_folder(tiny))
    assert torch.allclose(folded.tensor("model.layers.0.input_layernorm.weight"), torch.ones(64), atol=1e-6)


def test_module_ties_its_head(models_folder: Path) -> None:
    model: Model = open_folder(tiny_model(models_folder, tie_word_embeddings=True))
    module = model.module()
    assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
    with pytest.raises(KeyError):
        model.tensor("lm_head.weight")
