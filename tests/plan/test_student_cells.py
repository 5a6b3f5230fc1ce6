"""Skeletons of a language model: equal bytes, each cut in its way; cells recover, and the parent's head reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featherweight.core.data import TokenSet, default_documents, split_documents, tokenize
from featherweight.core.errors import RecipeError
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.measure.quality import compare, summarize
from featherweight.plan.skeletons import NAMES, Skeleton, skeletons
from featherweight.plan.student_cells import StudentCells
from featherweight.testing.tiny import tiny_model
from featherweight.train.cells import UNTRAINED, Cell
from featherweight.train.head import Fitting
from featherweight.train.recovery import RECOVERIES, build_recoveries


@pytest.fixture(scope="module")
def parent(models_folder: Path) -> Model:
    return open_folder(tiny_model(models_folder, num_hidden_layers=4))


@pytest.fixture(scope="module")
def text(parent: Model) -> dict[str, TokenSet]:
    splits = split_documents(default_documents())
    counts = {"calibration": 16, "selection": 6, "held-out": 6}
    return {name: tokenize(splits[name], parent.tokenizer, rows, 32) for name, rows in counts.items()}


@pytest.fixture(scope="module")
def made(parent: Model, text: dict[str, TokenSet]) -> dict[str, Skeleton]:
    return skeletons(parent, NAMES, 0.8, Run(calibration=text["calibration"]))


def parameters(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_skeletons_have_equal_bytes(parent: Model, made: dict[str, Skeleton]) -> None:
    sizes = {name: each.parameters for name, each in made.items()}
    assert max(sizes.values()) == sizes["depth"] <= 0.8 * parent.parameters
    assert min(sizes.values()) > 0.99 * sizes["depth"]
    for name, each in made.items():
        assert parameters(each.module()) == sizes[name]
    assert made["depth"].how == "1 of 4 blocks fewer"
    assert len(made["depth"].blocks) == 3


def test_a_module_is_its_own(made: dict[str, Skeleton]) -> None:
    for each in made.values():
        one, other = each.module(), each.module()
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.zero_()
        assert any(bool(parameter.any()) for parameter in other.parameters())
        assert any(bool(parameter.any()) for parameter in each.module().parameters())


def test_a_skeleton_of_full_rank_is_the_parent(parent: Model, text: dict[str, TokenSet]) -> None:
    from featherweight.models.low_rank_linear import factors

    names = parent.architecture.linears()
    exact = {
        name: factors(parent.tensor(name), torch.eye(parent.entries[name].shape[1]), min(parent.entries[name].shape))
        for name in names
    }
    module = Skeleton("low-rank", "all", 0, range(4), parent, exact).module()
    ids = text["held-out"].ids
    with torch.no_grad():
        torch.testing.assert_close(module(ids).logits, parent.module()(ids).logits, atol=2e-3, rtol=1e-3)


def cells(parent: Model, made: dict[str, Skeleton], text: dict[str, TokenSet], steps: int = 3) -> StudentCells:
    return StudentCells(parent, made, build_recoveries(tuple(RECOVERIES), {}), text, Fitting(steps, 1e-3, 0.0, 4))


def test_scores_are_the_perplexity_ratios_that_are_measured_everywhere(
    parent: Model, made: dict[str, Skeleton], text: dict[str, TokenSet]
) -> None:
    domain = cells(parent, made, text)
    found = domain.train(Cell("width", UNTRAINED, 0, 0), 1e-3)
    assert list(found.scores) == ["prose", "code"]
    for task, score in found.scores.items():
        rows = [row for row, each in enumerate(text["held-out"].domains) if each == task]
        measured = summarize(compare(parent, made["width"].model, text["held-out"].rows(rows), Run()))
        assert score == pytest.approx(measured.ratio, rel=1e-4)
    assert (found.steps, found.loss, found.parameters) == (0, None, made["width"].parameters)


@pytest.mark.parametrize("objective", RECOVERIES)
def test_every_recovery_learns_and_repeats(
    parent: Model, made: dict[str, Skeleton], text: dict[str, TokenSet], objective: str
) -> None:
    domain = cells(parent, made, text, 12)
    one, other = (domain.train(Cell("low-rank", objective, 8, 0), 1e-3) for _ in range(2))
    assert one == other
    assert one.loss is not None
    assert one.loss[1] < one.loss[0]
    assert one.flops > 0


def test_embedding_and_head_stay(parent: Model, made: dict[str, Skeleton], text: dict[str, TokenSet]) -> None:
    domain = cells(parent, made, text)
    module = made["depth"].module()
    before = {name: each.clone() for name, each in module.named_parameters()}
    recovery = RECOVERIES["next-token"]()
    domain._recover(module, made["depth"], recovery, Cell("depth", "next-token", 8, 0), 3, 1e-3, Run())
    changed = {name for name, each in module.named_parameters() if not torch.equal(each, before[name])}
    assert not any("embed" in name or "lm_head" in name for name in changed)
    assert any("layers.2" in name for name in changed)
    assert "model.norm.weight" in changed


def test_a_recovery_by_contrast_with_an_offset_has_a_map(
    parent: Model, made: dict[str, Skeleton], text: dict[str, TokenSet]
) -> None:
    ahead = StudentCells(
        parent, made, build_recoveries(["cpc"], {"cpc": {"offset": 2}}), text, Fitting(2, 1e-3, 0.0, 4)
    )
    assert [each.shape for each in ahead._extra(ahead.known["cpc"])] == [(64, 64)]
    assert ahead.train(Cell("depth", "cpc", 8, 0), 1e-3).loss is not None
    assert RECOVERIES["cpc"]().extra(64) == []


def test_what_cannot_be_cut(parent: Model, text: dict[str, TokenSet]) -> None:
    run = Run(calibration=text["calibration"])
    with pytest.raises(RecipeError, match="did you mean 'width'"):
        skeletons(parent, ["wdth"], 0.8, run)
    for name in NAMES:
        with pytest.raises(RecipeError, match=f"skeleton '{name}': cannot be cut to so few parameters; leave at least"):
            skeletons(parent, [name], 0.01, run)
