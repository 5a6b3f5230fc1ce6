"""The safety patch: neutral settings, shares that hold, one scoring or several, formats that stay, clear refusals."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import DataError, RecipeError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.export.checked import export_gguf, export_hugging_face
from featherweight.techniques.adapt.safety_patch import SafetyPatch
from featherweight.testing import check_technique, tiny_model, tiny_run

FIELDS: dict[str, Any] = {
    "count": 8, "answer_tokens": 4, "rank": 8, "learning_rate": 0.02, "epochs": 2, "batch": 4, "score_prompts": 3,
}  # fmt: skip


class Told(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def run_of(tiny: Path) -> Run:
    return dataclasses.replace(tiny_run(tiny), parent=open_folder(tiny), progress=Told())


def rounded(tiny: Path, name: str = "int2-g32") -> Model:
    return build("rtn", {"format": name}).apply(open_folder(tiny), Run())


def changed(before: Model, after: Model) -> dict[str, torch.Tensor]:
    return {name: before.tensor(name) != after.tensor(name) for name in before.entries}


@pytest.mark.parametrize("delta", ["merged", "separate"])
@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_conformance(delta: str, model_type: str) -> None:
    check_technique(SafetyPatch, build("safety-patch", {**FIELDS, "tau": 0.3, "delta": delta}), model_type)


def test_a_share_of_nothing_gives_the_very_model(tiny: Path) -> None:
    model = rounded(tiny)
    assert SafetyPatch(tau=0).apply(model, Run()).fingerprint == model.fingerprint


def test_a_model_that_answers_as_its_parent_is_left_alone(tiny: Path) -> None:
    model, run = open_folder(tiny), run_of(tiny)
    assert SafetyPatch(**FIELDS).apply(model, run).fingerprint == model.fingerprint
    assert "every answer is the parent's: there is nothing to patch" in run.progress.said  # type: ignore[attr-defined]


@pytest.mark.parametrize("delta", ["merged", "separate"])
@pytest.mark.parametrize("mask", ["snip", "random"])
@settings(max_examples=2)
@given(tau=st.floats(0.01, 0.99))
def test_no_more_than_the_share_of_each_matrix_changes(tiny: Path, delta: Any, mask: Any, tau: float) -> None:
    model, run = rounded(tiny), run_of(tiny)
    after = SafetyPatch(**{**FIELDS, "tau": tau, "delta": delta, "mask": mask, "refresh": 2, "epochs": 2}).apply(
        model, run
    )
    linears = set(model.architecture.linears())
    for name, moved in changed(model, after).items():
        assert int(moved.sum()) <= (math.floor(tau * moved.numel() + 0.5) if name in linears else 0)
    assert after.fingerprint != model.fingerprint or tau < 0.05
    assert run.notes["changed"] <= tau + 1e-3


def test_all_may_change_is_plain_dpo_and_needs_no_scores(tiny: Path) -> None:
    model, run = rounded(tiny), run_of(tiny)
    plain = SafetyPatch(**{**FIELDS, "tau": 1.0}).apply(model, run)
    control = SafetyPatch(**{**FIELDS, "tau": 1.0, "mask": "random"}).apply(model, run_of(tiny))
    assert plain.fingerprint == control.fingerprint != model.fingerprint
    assert not [each for each in run.progress.said if "scored" in each]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("refresh", "scorings"), [(1000, 1), (4, 1), (2, 2), (1, 4)])
def test_scorings_are_as_many_as_refreshes(tiny: Path, refresh: int, scorings: int) -> None:
    run = run_of(tiny)
    SafetyPatch(**{**FIELDS, "epochs": 4, "batch": 8, "refresh": refresh}).apply(rounded(tiny), run)
    assert len([each for each in run.progress.said if "scored" in each]) == scorings  # type: ignore[attr-defined]


def test_training_starts_at_the_logarithm_of_two_and_goes_down(tiny: Path) -> None:
    run = run_of(tiny)
    SafetyPatch(**{**FIELDS, "epochs": 10, "beta": 0.1}).apply(rounded(tiny), run)
    first, last = run.notes["loss"]
    assert first == round(math.log(2), 6)
    assert last < first
    assert run.notes["pairs"]["different answers"] > 0


@pytest.mark.parametrize(("name", "runtime"), [("Q4_0", "gguf"), ("int4-g64-asym", "hf"), ("Q2_K", "gguf")])
def test_merged_stays_exportable_in_the_same_bytes(
    models_folder: Path, tmp_path: Path, name: str, runtime: str
) -> None:
    folder = tiny_model(models_folder, hidden_size=256, num_hidden_layers=1)
    model, run = rounded(folder, name), run_of(folder)
    after = SafetyPatch(**FIELDS).apply(model, run)
    assert after.fingerprint != model.fingerprint
    assert after.nbytes == model.nbytes
    assert {each: entry.format for each, entry in after.entries.items()} == {
        each: entry.format for each, entry in model.entries.items()
    }
    for each in model.architecture.linears():
        kind = get(after.entries[each].format)
        assert torch.equal(kind.grid(after.stored(each)).scale, kind.grid(model.stored(each)).scale)
    if runtime == "gguf":
        export_gguf(after, tmp_path / "model.gguf")
    else:
        export_hugging_face(after, tmp_path / "folder")
    assert run.notes["bits a weight"][0] == run.notes["bits a weight"][1]


def test_separate_keeps_the_rounded_model_and_says_what_it_costs(tiny: Path, tmp_path: Path) -> None:
    model, run = rounded(tiny), run_of(tiny)
    after = SafetyPatch(**{**FIELDS, "delta": "separate", "tau": 0.2}).apply(model, run)
    extra = sum(get("int4-g32").tensor_bytes(model.entries[each].shape) for each in model.architecture.linears())
    assert after.nbytes == model.nbytes + extra
    before, now = run.notes["bits a weight"]
    assert now - before == pytest.approx(4.5, abs=0.1)
    after.save(tmp_path / "saved")
    assert open_folder(tmp_path / "saved").fingerprint == after.fingerprint


def test_an_unrounded_model_takes_an_unrounded_patch(tiny: Path, models_folder: Path) -> None:
    model = open_folder(tiny)
    run = dataclasses.replace(tiny_run(tiny), parent=open_folder(tiny_model(models_folder, seed=1)))
    after = SafetyPatch(**{**FIELDS, "tau": 0.5}).apply(model, run)
    assert {entry.format for entry in after.entries.values()} == {"F32"}
    share = run.notes["changed"]
    assert share == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("changes", [{"mapmask": "row_fraction"}, {"compare": "model"}, {"score_weights": "own"}])
def test_other_readings_of_the_paper(tiny: Path, changes: dict[str, Any]) -> None:
    model, run = rounded(tiny), run_of(tiny)
    after = SafetyPatch(**{**FIELDS, **changes, "tau": 0.25}).apply(model, run)
    assert after.fingerprint != SafetyPatch(**{**FIELDS, "tau": 0.25}).apply(model, run_of(tiny)).fingerprint
    assert 0 < run.notes["changed"] <= 0.25 + 1e-3
    if changes == {"mapmask": "row_fraction"}:
        for name in model.architecture.linears():
            rows = (after.tensor(name) != model.tensor(name)).any(1)
            assert int(rows.sum()) <= round(0.25 * len(rows))


def test_an_anchor_holds_answers_that_were_not_lost(tiny: Path) -> None:
    model, run = rounded(tiny), run_of(tiny)
    after = SafetyPatch(**{**FIELDS, "anchor": 1.0}).apply(model, run)
    assert after.fingerprint != SafetyPatch(**FIELDS).apply(model, run_of(tiny)).fingerprint
    assert run.notes["loss"][0] > math.log(2) + 0.1


def test_an_aligned_model_may_stand_in_for_a_lost_parent(tiny: Path, models_folder: Path) -> None:
    other = tiny_model(models_folder, seed=1)
    model, run = rounded(tiny), tiny_run(tiny)
    assert SafetyPatch(**FIELDS, aligned=str(other)).apply(model, run).fingerprint != model.fingerprint


def test_what_is_missing_or_wrong_is_named(tiny: Path, models_folder: Path, tmp_path: Path) -> None:
    model = rounded(tiny)
    with pytest.raises(DataError, match="needs the parent model"):
        SafetyPatch(**FIELDS).apply(model, tiny_run(tiny))
    narrow = tiny_model(models_folder, intermediate_size=128)
    with pytest.raises(RecipeError, match="other shapes"):
        SafetyPatch(**FIELDS, aligned=str(narrow)).apply(model, tiny_run(tiny))
    own = SafetyPatch(**FIELDS, aligned=str(narrow), score_weights="own")
    assert own.apply(model, tiny_run(tiny)).fingerprint != model.fingerprint
    with pytest.raises(RecipeError, match="no exact zero"):
        build("safety-patch", {"delta_format": "Q4_1"})
    with pytest.raises(RecipeError, match="less than or equal to 1"):
        build("safety-patch", {"tau": 1.5})
    with pytest.raises(DataError, match="does not exist"):
        SafetyPatch(**FIELDS, prompts=str(tmp_path / "none.jsonl")).apply(model, run_of(tiny))


def test_another_tokenizer_is_refused(tiny: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tokenizer = open_folder(other).tokenizer
    tokenizer.add_tokens(["⊗"])
    tokenizer.save_pretrained(other)
    with pytest.raises(DataError, match="another tokenizer"):
        SafetyPatch(**FIELDS, aligned=str(other)).apply(rounded(tiny), tiny_run(tiny))
