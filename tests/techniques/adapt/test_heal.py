"""Healing: neutral, never worse, better where it can be, on the same bytes, with the same zeros; what it refuses."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError, FeatherweightError, RecipeError
from featherweight.core.formats import FLOATS, get
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.steps import apply_step
from featherweight.core.technique import build
from featherweight.measure.quality import compare
from featherweight.techniques.adapt.heal import Heal
from featherweight.testing import check_technique
from featherweight.testing.tiny import tiny_model, tiny_tokens, write_json

QUICK: dict[str, Any] = {"steps": 24, "batch": 4, "rank": 8, "checks": 3, "probe": 4}


@pytest.fixture(scope="module")
def parent(trained: Path) -> Model:
    return open_folder(trained)


@pytest.fixture(scope="module")
def tokens(trained: Path) -> TokenSet:
    return tiny_tokens(trained, rows=24, length=48)


@pytest.fixture
def run(parent: Model, tokens: TokenSet) -> Run:
    return Run(tokens, parent=parent)


def rounded(model: Model, kind: str) -> Model:
    return build("rtn", {"format": kind, "embedding": "Q8_0"}).apply(model, Run())


def damage(parent: Model, model: Model, folder: Path) -> float:
    """KL to the parent on rows of other documents."""
    return float(compare(parent, model, tiny_tokens(folder, rows=24, length=48, skip=45), Run()).kl.mean())


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
@pytest.mark.parametrize("fields", [{"train": "lora"}, {"train": "full", "hidden": 0}])
def test_conformance(model_type: str, fields: dict[str, Any]) -> None:
    check_technique(Heal, build("heal", {"steps": 4, "batch": 2, "checks": 2, **fields}), model_type)


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_no_steps_change_nothing(parent: Model, run: Run, kind: str) -> None:
    model = parent if kind == "F32" else rounded(parent, kind)
    assert Heal(steps=0).apply(model, run) is model
    assert run.notes == {}


@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_model_that_is_its_parent_stays_bit_for_bit(parent: Model, run: Run, train: str) -> None:
    healed = build("heal", {**QUICK, "train": train}).apply(parent, run)
    assert healed.fingerprint == parent.fingerprint
    assert run.notes["best"] == 0


@pytest.mark.parametrize("fields", [{"train": "lora"}, {"train": "full", "learning_rate": 1e-3}, {"hidden": 0}])
def test_a_cut_model_gets_better(parent: Model, run: Run, trained: Path, fields: dict[str, Any]) -> None:
    cut = build("width", {"ffn": 0.5}).apply(build("depth", {"drop": 1}).apply(parent, run), run)
    healed = build("heal", {**QUICK, **fields}).apply(cut, run)
    assert damage(parent, healed, trained) < 0.9 * damage(parent, cut, trained)
    assert run.notes["after"] < run.notes["before"]
    assert {name: (each.format, each.shape) for name, each in healed.entries.items()} == {
        name: (each.format, each.shape) for name, each in cut.entries.items()
    }


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "int2-g32", "int4-g64-asym"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_on_a_frozen_grid(parent: Model, run: Run, trained: Path, kind: str, train: str) -> None:
    """Better with the same formats, scales and bytes; embedding and head as they were."""
    model = rounded(parent, kind)
    healed = build("heal", {**QUICK, "train": train, "zeros": "free"}).apply(model, run)
    assert damage(parent, healed, trained) < damage(parent, model, trained)
    assert healed.nbytes == model.nbytes
    moved = 0
    for name, entry in healed.entries.items():
        before, after = model.stored(name), healed.stored(name)
        assert (entry.format, entry.shape, entry.nbytes) == (
            model.entries[name].format, model.entries[name].shape, model.entries[name].nbytes,
        )  # fmt: skip
        if name in model.architecture.linears():
            one, other = get(kind).grid(before), get(kind).grid(after)
            assert torch.equal(one.scale, other.scale)
            assert torch.equal(one.minimum, other.minimum)
            moved += int((get(kind).codes(before) != get(kind).codes(after)).sum())
        elif len(entry.shape) == 2:
            assert entry.digest == model.entries[name].digest
    assert moved > 0


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "int4-g64"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_pruned_zeros_stay(parent: Model, run: Run, kind: str, train: str) -> None:
    model = build("magnitude", {"sparsity": 0.6}).apply(parent, run)
    model = model if kind == "F32" else rounded(model, kind)
    healed = build("heal", {**QUICK, "train": train, "learning_rate": 1e-3, "grid_rate": 0.1}).apply(model, run)
    assert healed.fingerprint != model.fingerprint
    for name in model.architecture.linears():
        assert bool((healed.tensor(name)[model.tensor(name) == 0] == 0).all())


def test_one_seed_one_result(parent: Model, tokens: TokenSet) -> None:
    model = rounded(parent, "int2-g32")
    results = [Heal(**QUICK).apply(model, Run(tokens, seed=seed, parent=parent)).fingerprint for seed in (3, 3, 4)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_never_worse_than_before(parent: Model, run: Run, kind: str) -> None:
    """Whatever the learning rate; both numbers are told."""
    model = build("depth", {"drop": 1}).apply(parent, run)
    model = model if kind == "F32" else rounded(model, kind)
    said: list[str] = []
    run.progress.say = said.append  # type: ignore[method-assign]
    wild = Heal(**QUICK, learning_rate=10.0, grid_rate=100.0, vector_rate=10.0)
    assert wild.apply(model, run).fingerprint == model.fingerprint
    assert run.notes["before"] == run.notes["after"] > 0
    assert said[-1].startswith(f"healing: KL {run.notes['before']:.4f} before, {run.notes['after']:.4f} after step 0")


def test_the_receipt_holds_both_numbers(parent: Model, run: Run, tmp_path: Path) -> None:
    model = rounded(parent, "int2-g32")
    applied = apply_step(Heal(**QUICK), model, run, tmp_path)
    assert applied.content["notes"] == {**run.notes}
    assert applied.content["notes"]["after"] < applied.content["notes"]["before"]
    again = apply_step(Heal(**QUICK), model, run, tmp_path)
    assert again.content == applied.content
    assert "notes" not in apply_step(build("rtn", {"format": "Q4_0"}), parent, run, None).content


def test_planned_formats_are_kept(parent: Model, run: Run) -> None:
    planned = build("depth", {"drop": 1}).apply(parent, run).with_changes(planned={"some.weight": "Q4_0"})
    assert Heal(**QUICK).apply(planned, run).planned == {"some.weight": "Q4_0"}


def test_a_mix_of_plain_and_rounded_matrices(parent: Model, run: Run) -> None:
    names = parent.architecture.linears()[::2]
    mixed = parent.with_changes({name: get("int2-g32").fit(parent.tensor(name)) for name in names})
    healed = Heal(**QUICK).apply(mixed, run)
    assert run.notes["after"] < run.notes["before"]
    assert {name for name in parent.architecture.linears() if healed.entries[name].format in FLOATS} == set(
        parent.architecture.linears()
    ) - set(names)


def test_minutes_become_steps(parent: Model, run: Run) -> None:
    model = build("depth", {"drop": 1}).apply(parent, run)
    before = model.fingerprint
    heal = Heal(minutes=0.005, batch=4)
    few, many = heal.within(0.001, model, run), heal.within(0.1, model, run)
    assert 1 <= few.steps < many.steps
    assert few.minutes is None
    assert model.fingerprint == before
    heal.apply(model, run)
    assert run.notes["steps"] >= 1


class TestRefused:
    def test_no_parent(self, parent: Model, tokens: TokenSet) -> None:
        with pytest.raises(DataError, match=r"heal: needs the parent model; give it as Run\(parent=\.\.\.\)"):
            Heal().apply(parent, Run(tokens))

    def test_refit_of_what_is_rounded(self, parent: Model, run: Run) -> None:
        with pytest.raises(RecipeError, match=r"heal.grid = 'refit': 14 matrices are rounded already; put heal before"):
            Heal(grid="refit").apply(rounded(parent, "Q4_0"), run)

    def test_another_tokenizer(self, parent: Model, run: Run, trained: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(trained, tmp_path / "other"))
        write_json(other / "tokenizer.json", {"version": "2.0"})
        with pytest.raises(RecipeError, match="heal: the model and its parent do not share a tokenizer"):
            Heal().apply(open_folder(other), run)

    def test_another_hidden_size(self, tokens: TokenSet, parent: Model, models_folder: Path) -> None:
        wide = open_folder(tiny_model(models_folder, hidden_size=128))
        run = Run(tokens, parent=parent)
        with pytest.raises(
            RecipeError, match=r"heal.hidden = 0\.1: the model's hidden size is 128, its parent's 64; set"
        ):
            Heal().apply(wide, run)
        Heal(**QUICK, hidden=0).apply(wide, run)
        assert run.notes["after"] < run.notes["before"]

    @pytest.mark.parametrize("blocks", [(0,), (0, 2), (0, 1, 1), (-1, 0)])
    def test_blocks_that_are_none(self, parent: Model, run: Run, blocks: tuple[int, ...]) -> None:
        with pytest.raises(RecipeError, match="the model has 2 blocks and its parent 2; name one of the parent's"):
            Heal(blocks=blocks).apply(parent, run)

    def test_more_blocks_than_the_parent(self, tokens: TokenSet, parent: Model, models_folder: Path) -> None:
        """Only predictions can be compared then."""
        deep, run = open_folder(tiny_model(models_folder, num_hidden_layers=3)), Run(tokens, parent=parent)
        with pytest.raises(RecipeError, match="a model of 3 blocks: has more than its parent, which has 2; name"):
            Heal().apply(deep, run)
        Heal(**QUICK, hidden=0).apply(deep, run)
        assert run.notes["after"] < run.notes["before"]

    def test_a_single_row(self, parent: Model, tokens: TokenSet) -> None:
        with pytest.raises(DataError, match="heal: cannot hold a row of one back; give more calibration text"):
            Heal().apply(parent, Run(tokens.rows([0]), parent=parent))

    @pytest.mark.parametrize("fields", [{"steps": -1}, {"minutes": 0}, {"rank": 0}, {"train": "some"}, {"hidden": -1}])
    def test_values_out_of_range(self, fields: dict[str, Any]) -> None:
        with pytest.raises(FeatherweightError, match=f"heal.{next(iter(fields))} = "):
            build("heal", fields)


def test_blocks_may_be_named(parent: Model, run: Run) -> None:
    """Of a child of one block, the parent's second; wrong ones give another result, so they are used."""
    cut = build("depth", {"blocks": [0]}).apply(parent, run)
    found, named, wrong = (
        build("heal", {**QUICK, "hidden": 1, **fields}).apply(cut, dataclasses.replace(run)).fingerprint
        for fields in ({}, {"blocks": (1,)}, {"blocks": (0,)})
    )
    assert found == named != wrong
