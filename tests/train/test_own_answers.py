"""Prompts from files and calibration rows, answers that differ only where models differ, bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featherweight.core.errors import DataError
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_step
from featherweight.techniques.adapt.safety_patch import SafetyPatch
from featherweight.testing import tiny_model, tiny_run
from featherweight.train.own_answers import read_prompts


def written(folder: Path, *records: Any) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in records), encoding="utf-8")
    return str(path)


def test_prompts_are_asked_in_the_chat_template_each_once(tiny: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Name a colour."}]
    source = written(tmp_path, {"prompt": "Name a colour."}, {"messages": chat}, {"prompt": "Name a fruit."})
    model = open_folder(tiny)
    asked = SafetyPatch(prompts=source).questions(model, Run())
    assert [model.tokenizer.decode(each) for each in asked] == [
        f"<|start|>user\nName a {thing}.<|end|>\n<|start|>assistant\n" for thing in ("colour", "fruit")
    ]
    shorter = len(asked[0]) - 2
    assert SafetyPatch(prompts=source, prompt_tokens=shorter).questions(model, Run())[0] == asked[0][2:]
    one = written(tmp_path, {"prompt": "Only one."})
    with pytest.raises(DataError, match="gives 1 different prompts"):
        SafetyPatch(prompts=one).questions(model, Run())


def test_without_a_file_the_calibration_rows_begin_the_prompts(tiny: Path) -> None:
    run = tiny_run(tiny, rows=6)
    asked = SafetyPatch(count=4).questions(open_folder(tiny), run)
    assert [list(each) for each in asked] == run.tokens("test").ids[:4, :24].tolist()


def test_equal_models_give_equal_answers_and_others_do_not(tiny: Path, models_folder: Path) -> None:
    asks, run, model = SafetyPatch(answer_tokens=8), tiny_run(tiny), open_folder(tiny)
    asked = asks.questions(model, run)
    answers = asks.answers(model, asked, run)
    assert answers == asks.answers(model, asked, tiny_run(tiny))
    assert answers != asks.answers(open_folder(tiny_model(models_folder, seed=1)), asked, run)
    assert answers != asks.answers(model, asked, tiny_run(tiny, seed=1))
    assert {len(each) for each in answers} <= set(range(1, 9))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b'{"prompt": "a"}\n{"text": "b"}', "line 2: has neither"),
        (b'{"prompt": ""}', "line 1: has neither"),
        (b'{"messages": []}', "line 1: has neither"),
        (b'{"messages": [{"role": "user"}]}', "line 1: has neither"),
        (b'"a"', "line 1: has neither"),
        (b"not json", "line 1: has neither"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(str(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_prompts(str(tmp_path / "none.jsonl"))


def test_a_step_with_changed_prompts_is_another_step(tiny: Path, tmp_path: Path) -> None:
    model, kept = open_folder(tiny), []
    for asked in ("a", "b", "a"):
        step = SafetyPatch(tau=0, prompts=written(tmp_path, {"prompt": asked}))
        kept.append(apply_step(step, model, Run(), tmp_path / "steps").kept_as)
    assert kept[0] == kept[2] != kept[1]
