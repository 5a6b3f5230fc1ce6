"""Hosts and their components: what is found, what is refused, number formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from featherweight.core.errors import CheckpointError, UnsupportedArchitecture
from featherweight.core.host import WHOLE, open_host
from featherweight.core.prompts import token_ids
from featherweight.testing.encoders import phrases, tiny_bert, tiny_clip
from featherweight.testing.tiny import write_json


def test_components_of_a_clip_model(tmp_path: Path) -> None:
    host = open_host(tiny_clip(tmp_path))
    assert "text_model" in host.components()
    part = host.component("text_model")
    assert part.context == 77
    assert part.embedding is not None
    assert part.position_table is not None
    assert part.position_table.shape == (77, 32)


def test_a_sentence_encoder_is_its_own_component(tmp_path: Path) -> None:
    part = open_host(tiny_bert(tmp_path)).component(WHOLE)
    assert part.context == 40
    with pytest.raises(CheckpointError, match=r"takes no token ids \(it is a BertEncoder\); give one of \."):
        part.host.component("encoder")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_float32_and_as_the_module_computes_them(tmp_path: Path, dtype: str) -> None:
    part = open_host(tiny_clip(tmp_path, dtype=dtype)).component("text_model")
    assert part.module.dtype == getattr(torch, dtype)
    rows = token_ids(phrases()[:70], part.host.tokenizer)
    states = part.states(rows, batch=32)
    assert [len(each) for each in states] == [len(row) for row in rows]
    with torch.inference_mode():
        alone = part.exact(torch.tensor([rows[-1]])).last_hidden_state[0]
    assert alone.dtype == torch.float32
    torch.testing.assert_close(states[-1], alone, atol=1e-5, rtol=1e-5)
    assert part.module.dtype == getattr(torch, dtype)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors.pop("pooler.dense.weight")
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks the tensor pooler\.dense\.weight"):
        open_host(folder)


def test_other_hosts_that_are_refused(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    write_json(folder / "tokenizer_config.json", {"pad_token": None})
    with pytest.raises(CheckpointError, match="a tokenizer without a padding token"):
        open_host(folder)
    write_json(folder / "config.json", {"architectures": None})
    with pytest.raises(UnsupportedArchitecture, match="has the class missing"):
        open_host(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only as a pickle"):
        open_host(folder)
