"""Sampling: what temperature and top-p leave, and that a text does not depend on the padding beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.sampling import Draw, continue_texts
from featherweight.core.source import open_folder

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])


def drawn(draw: Draw, count: int = 2000) -> torch.Tensor:
    tokens = draw.token(LOGITS.expand(count, -1), torch.Generator().manual_seed(0))
    return torch.bincount(tokens[:, 0], minlength=4) / count


def test_plain_draws_follow_the_model() -> None:
    assert torch.allclose(drawn(Draw()), LOGITS.softmax(-1)[0], atol=0.03)


def test_temperature_sharpens_and_zero_takes_the_likeliest() -> None:
    assert torch.allclose(drawn(Draw(0.5)), (LOGITS / 0.5).softmax(-1)[0], atol=0.03)
    assert drawn(Draw(0.0)).tolist() == [1, 0, 0, 0]


@given(st.floats(0.01, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float) -> None:
    kept = (drawn(Draw(1.0, top_p), 400) > 0).tolist()
    mass = LOGITS.softmax(-1)[0].cumsum(0).tolist()
    expected = [index == 0 or mass[index - 1] < top_p for index in range(4)]
    assert all(allowed or not seen for seen, allowed in zip(kept, expected, strict=True))
    assert kept[0]


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_padding_changes_no_greedy_text(models_folder: Path, model_type: str) -> None:
    from featherweight.testing import tiny_model

    model = open_folder(tiny_model(models_folder, model_type))
    texts = ["A model", "The quick brown fox jumps over the lazy dog and"]
    generator = torch.Generator()
    together = continue_texts(model.module(), model.tokenizer, texts, 8, generator, Draw(0))
    alone = [continue_texts(model.module(), model.tokenizer, [each], 8, generator, Draw(0))[0] for each in texts]
    assert together == alone
