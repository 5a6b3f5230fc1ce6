"""Sensitivity: what rounding each matrix costs, against what it is measured to cost; kept, and measured once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.architecture import supported
from featherweight.core.data import TokenSet
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.store import Store
from featherweight.measure.quality import compare, summarize
from featherweight.measure.sensitivity import Sensitivity, fisher, sensitivities
from featherweight.testing.tiny import tiny_model, tiny_tokens

FALLING = ("Q3_K", "Q4_K", "Q5_K", "Q6_K")
KINDS = ("Q4_0", "Q5_0", "Q8_0")


@pytest.fixture(scope="module")
def tokens(trained: Path) -> TokenSet:
    return tiny_tokens(trained, rows=16, length=48)


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return open_folder(trained)


@pytest.fixture(scope="module")
def tables(model: Model, tokens: TokenSet) -> dict[str, Sensitivity]:
    return sensitivities(model, tokens, KINDS, Run(), ("feedback", "nearest"))


@pytest.mark.parametrize("rounding", ["feedback", "nearest"])
def test_more_bits_cost_less(tables: dict[str, Sensitivity], rounding: str, model: Model) -> None:
    table = tables[rounding]
    assert set(table) == set(model.architecture.quantizable())
    for name, row in table.items():
        assert row["Q4_0"] > row["Q5_0"] > row["Q8_0"] > 0, name


def test_only_formats_that_fit_are_in_it(model: Model, tokens: TokenSet) -> None:
    """K-quants need rows of 256, which only the down projections have here."""
    table = sensitivities(model, tokens, FALLING, Run())["feedback"]
    for name, row in table.items():
        assert list(row) == (list(FALLING) if "down_proj" in name else [])
    for row in filter(None, table.values()):
        assert sorted(row.values(), reverse=True) == list(row.values())


@pytest.mark.parametrize("rounding", ["feedback", "nearest"])
def test_measured_together_or_alone(
    tables: dict[str, Sensitivity], rounding: str, model: Model, tokens: TokenSet
) -> None:
    assert sensitivities(model, tokens, KINDS, Run(), (rounding,))[rounding] == tables[rounding]


def test_feedback_pays(tables: dict[str, Sensitivity]) -> None:
    total = {name: sum(row["Q4_0"] for row in table.values()) for name, table in tables.items()}
    assert total["feedback"] < total["nearest"]


def test_it_foretells_what_is_measured(tables: dict[str, Sensitivity], model: Model, tokens: TokenSet) -> None:
    """The sum over all linears against the divergence of the model with all of them rounded, within a factor of 3."""
    linears = model.architecture.linears()
    rounded = model.with_changes({name: get("Q5_0").fit(model.tensor(name)) for name in linears})
    measured = summarize(compare(model, rounded, tokens, Run())).kl
    expected = sum(tables["nearest"][name]["Q5_0"] for name in linears)
    assert expected / 3 < measured < expected * 3


def test_kept(model: Model, tokens: TokenSet, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = sensitivities(model, tokens, KINDS, Run(store=store), ("feedback", "nearest"))
    made = store.made
    assert made == 3  # two tables and the gradients that both need
    assert sensitivities(model, tokens, KINDS, Run(store=store), ("nearest",))["nearest"] == first["nearest"]
    again = Store(tmp_path)
    assert sensitivities(model, tokens, KINDS, Run(store=again), ("feedback", "nearest")) == first
    assert (store.made, again.made) == (made, 0)


def test_one_that_is_missing_is_measured_alone(model: Model, tokens: TokenSet, tmp_path: Path) -> None:
    store = Store(tmp_path)
    sensitivities(model, tokens, KINDS, Run(store=store), ("feedback",))
    before = store.made
    sensitivities(model, tokens, KINDS, Run(store=store), ("feedback", "nearest"))
    assert store.made == before + 1


def test_gradients_are_those_of_the_fisher_information(model: Model, tokens: TokenSet) -> None:
    """Of the head: p (1 - p) averaged over tokens, whatever the labels drawn."""
    found = fisher(model, tokens, Run())
    assert set(found) == {*model.architecture.linears(), "lm_head.weight"}
    p = model.module()(tokens.ids).logits.flatten(0, 1).softmax(-1)
    torch.testing.assert_close(found["lm_head.weight"], (p * (1 - p)).mean(0), rtol=1e-3, atol=1e-7)
    assert all(bool((each >= 0).all()) and float(each.sum()) > 0 for each in found.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", supported())
def test_every_architecture(model_type: str, tied: bool, models_folder: Path) -> None:
    folder = tiny_model(models_folder, model_type, tie_word_embeddings=tied)
    model = open_folder(folder)
    table = sensitivities(model, tiny_tokens(folder, rows=4, length=24), ("Q4_0", "Q8_0"), Run())["feedback"]
    assert set(table) == set(model.architecture.quantizable())
    assert all(row["Q4_0"] > row["Q8_0"] for row in table.values())
