"""Refusal margins and divergences: the same as without cache and padding, zero for a model against itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.cases import CaseSet, user_case
from featherweight.core.errors import DataError
from featherweight.core.labels import Role
from featherweight.core.model import Model
from featherweight.core.policy import Openings
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.core.template import prompt_ids
from featherweight.measure.connectors.hugging_face import HuggingFaceConnector
from featherweight.measure.early_signals import early_signals
from featherweight.measure.refusal_margin import divergence, opening_ids, start_of_answers
from featherweight.testing.tiny import tiny_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14]]
OPENINGS = [(20,), (21, 22, 23), (24, 25)]
SETS = {
    Role.DIRECT: CaseSet("direct", tuple(user_case(str(n), f"What of topic {n}?") for n in range(40))),
    Role.CAPABILITY: CaseSet("capability", tuple(user_case(str(n), f"Name {n}.") for n in range(3))),
}


@torch.no_grad()
def alone(module: Any, prompt: Sequence[int], opening: Sequence[int]) -> float:
    """log p(opening | prompt) of one row, in one pass."""
    logs = module(torch.tensor([[*prompt, *opening]])).logits[0].double().log_softmax(-1)
    return sum(float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(opening))


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_openings_are_teacher_forced(models_folder: Path, model_type: str) -> None:
    module = open_folder(tiny_model(models_folder, model_type)).module()
    found = start_of_answers(module, PROMPTS, OPENINGS).openings
    expected = [[alone(module, prompt, opening) for opening in OPENINGS] for prompt in PROMPTS]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=2e-4)


def test_the_margin_is_the_difference_of_both_sides(tiny: Path) -> None:
    start = start_of_answers(open_folder(tiny).module(), PROMPTS, OPENINGS)
    expected = start.openings[:, 0] - torch.logaddexp(start.openings[:, 1], start.openings[:, 2])
    assert torch.allclose(start.margins(1), expected)
    turned = start_of_answers(open_folder(tiny).module(), PROMPTS, [OPENINGS[1], OPENINGS[2], OPENINGS[0]])
    assert torch.allclose(turned.margins(2), -expected)


def test_a_model_does_not_diverge_from_itself(tiny: Path, models_folder: Path) -> None:
    module, other = open_folder(tiny).module(), open_folder(tiny_model(models_folder, seed=5)).module()
    one, same = (start_of_answers(module, PROMPTS, OPENINGS) for _ in range(2))
    assert divergence(one, same).tolist() == [0, 0, 0]
    apart = divergence(one, start_of_answers(other, PROMPTS, OPENINGS))
    assert (apart > 0.01).all()
    expected = (one.first.exp() * (one.first - start_of_answers(other, PROMPTS, OPENINGS).first)).sum(1)
    assert torch.allclose(apart, expected)


def test_openings_of_a_side_are_kept_once_and_by_their_beginning(tiny: Path) -> None:
    tokenizer = open_folder(tiny).tokenizer
    refusals, compliances = opening_ids(tokenizer, Openings(refuse=("No", "No", "Not so"), comply=("Yes",)))
    assert len(refusals) == len({tuple(each) for each in refusals})
    assert all(tokenizer.decode(each) in ("No", "Not so") for each in refusals)
    assert [tokenizer.decode(each) for each in compliances] == ["Yes"]


@pytest.mark.parametrize(
    ("openings", "problem"),
    [
        (Openings(refuse=("No",), comply=("No way",)), "begin alike"),
        (Openings(refuse=("",), comply=("Yes",)), "leave no"),
    ],
)
def test_openings_that_say_nothing_are_refused(tiny: Path, openings: Openings, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        opening_ids(open_folder(tiny).tokenizer, openings)


def test_signals_of_a_model_against_itself_and_another(tiny: Path, models_folder: Path) -> None:
    one, other = (HuggingFaceConnector(open_folder(each)) for each in (tiny, tiny_model(models_folder, seed=5)))
    same = early_signals(one, HuggingFaceConnector(open_folder(tiny)), SETS, Openings())
    assert same["ratio"] is None
    for each in same["sets"].values():
        assert (each["kl"], each["change"], each["change_interval"]) == (0, 0, [0, 0])
    moved = early_signals(one, other, SETS, Openings())
    assert moved["sets"]["direct"]["prompts"] == 40
    assert moved["ratio"] == moved["sets"]["direct"]["kl"] / moved["sets"]["capability"]["kl"]
    back = early_signals(other, one, SETS, Openings())
    assert back["sets"]["direct"]["change"] == pytest.approx(-moved["sets"]["direct"]["change"])


def test_models_of_other_vocabularies_have_margins_and_no_divergence(tiny: Path, models_folder: Path) -> None:
    wider = HuggingFaceConnector(open_folder(tiny_model(models_folder, vocab_size=640)))
    found = early_signals(HuggingFaceConnector(open_folder(tiny)), wider, SETS, Openings())
    assert found["sets"]["direct"]["kl"] is None
    assert found["ratio"] is None


def test_openings_that_cannot_be_spelt_leave_a_reason(tiny: Path) -> None:
    one = HuggingFaceConnector(open_folder(tiny))
    found = early_signals(one, one, SETS, Openings(refuse=("No",), comply=("No way",)))
    assert "begin alike" in found["problem"]


def test_cases_that_a_template_refuses_are_left_out(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(tiny, folder)
    template = "{% if messages[0]['content'] == 'Name 1.' %}{{ raise_exception('no') }}{% endif %}user: "
    (folder / "chat_template.jinja").write_text(template + "{{ messages[0]['content'] }}")
    one, strict = HuggingFaceConnector(open_folder(tiny)), HuggingFaceConnector(open_folder(folder))
    found = early_signals(one, strict, SETS, Openings())["sets"]
    assert (found["direct"]["prompts"], found["capability"]["prompts"]) == (40, 2)


def test_a_prompt_is_what_the_connector_asks(tiny: Path) -> None:
    model = open_folder(tiny)
    conversation = SETS[Role.DIRECT].cases[0].messages
    assert prompt_ids(model.tokenizer, conversation) == HuggingFaceConnector(model)._prompt(conversation, 4)


@pytest.mark.real
def test_a_real_model_moves_when_it_is_rounded(smollm: Model) -> None:
    """Its refusal rate is too low to say anything; margins and divergences do say something."""
    asked = {role: CaseSet(cases.name, cases.cases[:3]) for role, cases in SETS.items()}
    rounded = build("rtn", {"format": "int4-g64"}).apply(smollm, Run())
    found = early_signals(HuggingFaceConnector(smollm), HuggingFaceConnector(rounded), asked, Openings())
    assert found["ratio"] > 0
    for each in found["sets"].values():
        assert each["parent_margin"] < 0  # it would rather answer
        assert 0 < each["kl"] < 5
        assert each["change"] != 0
