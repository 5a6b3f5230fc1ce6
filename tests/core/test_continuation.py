"""Answers sampled in a batch: the same as one by one, ended where a turn ends, the same from the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.continuation import continue_tokens
from featherweight.core.source import open_folder

PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (12,)]


@pytest.fixture
def module(tiny: Path) -> Any:
    return open_folder(tiny).module()


def drawn(module: Any, **changes: Any) -> list[list[int]]:
    settings = {"length": 6, "end": None, "generator": torch.Generator().manual_seed(0), **changes}
    with torch.inference_mode():
        return continue_tokens(module, settings.pop("prompts", PROMPTS), **settings)


def test_greedy_answers_do_not_depend_on_their_neighbours(module: Any) -> None:
    together = drawn(module, temperature=0)
    assert together == [drawn(module, prompts=[prompt], temperature=0)[0] for prompt in PROMPTS]
    ids = list(PROMPTS[0])
    for token in together[0]:
        with torch.inference_mode():
            assert int(module(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_one_seed_gives_one_answer(module: Any) -> None:
    assert drawn(module) == drawn(module)
    assert drawn(module) != drawn(module, generator=torch.Generator().manual_seed(1))


def test_an_answer_ends_with_its_turn(module: Any) -> None:
    whole = drawn(module, temperature=0)
    end = whole[0][2]
    cut = drawn(module, temperature=0, end=end)
    assert cut[0] == whole[0][: whole[0].index(end) + 1]
    assert all(end not in answer[:-1] for answer in cut)


def test_stopping_when_all_have_ended_saves_tokens_and_changes_nothing(module: Any) -> None:
    end, calls = drawn(module, prompts=[PROMPTS[0]], temperature=0)[0][1], []
    settings = {"prompts": [PROMPTS[0]], "temperature": 0, "end": end, "length": 20}
    assert drawn(module, **settings, until_all_end=True, advance=lambda: calls.append(1)) == drawn(module, **settings)
    assert len(calls) <= 2
