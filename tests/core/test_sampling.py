"""Sampling: what temperature and top-p leave, neighbours and padding that change nothing, answers that end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.sampling import Draw, continue_texts, continue_tokens
from featherweight.core.source import open_folder

PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (12,)]
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


@pytest.fixture
def module(tiny: Path) -> Any:
    return open_folder(tiny).module()


def continued(module: Any, **changes: Any) -> list[list[int]]:
    settings = {"length": 6, "end": None, "generator": torch.Generator().manual_seed(0), **changes}
    with torch.inference_mode():
        draw = Draw(settings.pop("temperature", 1.0))
        return continue_tokens(module, settings.pop("prompts", PROMPTS), draw=draw, **settings)


def test_greedy_answers_do_not_depend_on_their_neighbours(module: Any) -> None:
    together = continued(module, temperature=0)
    assert together == [continued(module, prompts=[prompt], temperature=0)[0] for prompt in PROMPTS]
    ids = list(PROMPTS[0])
    for token in together[0]:
        with torch.inference_mode():
            assert int(module(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_one_seed_gives_one_answer(module: Any) -> None:
    assert continued(module) == continued(module)
    assert continued(module) != continued(module, generator=torch.Generator().manual_seed(1))


def test_an_answer_ends_with_its_turn(module: Any) -> None:
    whole = continued(module, temperature=0)
    end = whole[0][2]
    cut = continued(module, temperature=0, end=end)
    assert cut[0] == whole[0][: whole[0].index(end) + 1]
    assert all(end not in answer[:-1] for answer in cut)


def test_stopping_when_all_have_ended_saves_tokens_and_changes_nothing(module: Any) -> None:
    end, calls = continued(module, prompts=[PROMPTS[0]], temperature=0)[0][1], []
    settings = {"prompts": [PROMPTS[0]], "temperature": 0, "end": end, "length": 20}
    stopped = continued(module, **settings, until_all_end=True, advance=lambda: calls.append(1))
    assert stopped == continued(module, **settings)
    assert len(calls) <= 2
