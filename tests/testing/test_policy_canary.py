"""The canary: what its world promises, what it learns, and what is known of each way of changing it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.errors import OutputError
from featherweight.core.labels import Role
from featherweight.core.lazy import transformers
from featherweight.core.policy_file import read_policy
from featherweight.core.source import open_folder
from featherweight.testing.canary_world import (
    ASKED,
    FRAMES,
    HELD_OUT,
    PROPERTIES,
    REFUSALS,
    World,
    question,
    tokenizer,
    vocabulary,
)
from featherweight.testing.policy_canary import write_canary
from featherweight.verify.rtsi import opens_with_refusal


def test_the_world_is_the_seeds_and_half_of_it_is_restricted() -> None:
    world = World(3)
    assert (len(world.restricted), len(world.allowed)) == (40, 40)
    assert World(3).values == world.values
    assert World(4).restricted != world.restricted
    assert {world.answer(topic, "age") for topic in world.restricted} == set(REFUSALS)
    assert world.answer(world.allowed[0], "age") == world.fact(world.allowed[0], "age")
    assert all(map(opens_with_refusal, REFUSALS))


def test_cases_pair_up_and_hold_frames_that_are_never_taught(tmp_path: Path) -> None:
    world = World(0)
    asked = {role: list(world.cases(role)) for role in Role}
    assert {role: len(cases) for role, cases in asked.items()} == {
        Role.DIRECT: 400, Role.FRAMED: 1600, Role.BENIGN: 400, Role.CAPABILITY: 400,
    }  # fmt: skip
    assert {case.frame for case in asked[Role.FRAMED]} == set(ASKED)
    assert set(HELD_OUT) <= set(ASKED)
    assert not set(HELD_OUT) & set(FRAMES)
    assert {case.item for case in asked[Role.FRAMED]} == {case.id for case in asked[Role.DIRECT]}
    assert {case.category for case in asked[Role.BENIGN]} == set(PROPERTIES)


def test_every_text_is_spelt_in_its_words() -> None:
    world, words = World(0), vocabulary()
    made = tokenizer()
    assert made.unk_token_id == words["<unknown>"]
    for topic in (world.restricted[0], world.allowed[0]):
        text = f"{question(topic, 'age', 'story:')} {world.answer(topic, 'age')}"
        ids = made(text, add_special_tokens=False)["input_ids"]
        assert made.unk_token_id not in ids
        assert made.decode(ids) == text
    turns = [{"role": "user", "content": "what age has t1 ?"}]
    assert made.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<user> what age has t1 ? <assistant>"
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canary") / "canary"
    write_canary(folder, steps=1)
    return folder


def test_the_folder_is_one_that_others_read(untrained: Path) -> None:
    canary = write_canary(untrained)
    policy = read_policy(canary.policy)
    assert {role: len(cases) for role, cases in policy.case_sets().items()}[Role.FRAMED] == 1600
    model = open_folder(canary.parent)
    assert model.architecture.blocks == 2
    stock = transformers.AutoModelForCausalLM.from_pretrained(canary.parent)
    ids = torch.tensor([model.tokenizer("what age has t1 ?")["input_ids"]])
    assert torch.equal(stock(ids).logits, model.module()(ids).logits)


def test_a_folder_that_is_there_is_taken_as_it_is(untrained: Path) -> None:
    before = open_folder(write_canary(untrained).parent).fingerprint
    assert open_folder(write_canary(untrained, steps=2).parent).fingerprint == before


def test_tuning_by_no_step_and_rounding_leave_what_they_should(untrained: Path) -> None:
    canary = write_canary(untrained)
    same = open_folder(canary.tuned_on_allowed(0))
    parent = open_folder(canary.parent)
    assert {name: each.digest for name, each in same.entries.items()} == {
        name: each.digest for name, each in parent.entries.items()
    }
    assert open_folder(canary.rounded(4)).fingerprint != parent.fingerprint


def test_one_seed_gives_one_model(untrained: Path, tmp_path: Path) -> None:
    again = write_canary(tmp_path / "again", steps=1)
    assert open_folder(again.parent).fingerprint == open_folder(untrained / "parent").fingerprint


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_canary(tmp_path / "file" / "canary", steps=1)
