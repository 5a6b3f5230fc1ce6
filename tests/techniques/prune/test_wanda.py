"""Wanda and magnitude pruning: exact masks, exact shares, dtypes and formats kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.architecture import EMBEDDING
from featherweight.core.errors import FormatError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import Technique
from featherweight.techniques.prune.magnitude import Magnitude
from featherweight.techniques.prune.sparsegpt import SparseGpt
from featherweight.techniques.prune.wanda import Wanda
from featherweight.testing.tiny import tiny_model, tiny_run

PRUNERS = [Magnitude, Wanda, SparseGpt]


def input_squares(model: Model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean square of every linear's inputs, by weight name, from the whole module."""
    module, found = model.module(), {}

    def hook(name: str) -> Any:
        def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found[name] = inputs[0].flatten(0, 1).square().mean(0)

        return keep

    for name in model.architecture.linears():
        module.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(hook(name))
    with torch.inference_mode():
        module(ids, use_cache=False)
    return found


def test_with_equal_inputs_it_is_magnitude_pruning_by_row(tiny: Path) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    for fields in ({"sparsity": 0.3}, {"pattern": "2:4"}):
        wanda = Wanda(**fields)
        scores = wanda.scores(weight, torch.full((40,), 2.25), "any", Run())
        by_size = Magnitude(compare="row", **fields).dropped(weight.abs(), "row")
        assert torch.equal(wanda.dropped(scores, "row"), by_size)


def test_every_mask_follows_from_the_inputs_of_the_pruned_model(any_architecture: Path) -> None:
    """What feeds a linear is pruned before the linear is, so the result's own inputs give back every mask."""
    model, run = open_folder(any_architecture), tiny_run(any_architecture)
    wanda = Wanda(sparsity=0.4)
    pruned = wanda.apply(model, run)
    squares = input_squares(pruned, run.tokens("test").ids)
    for name in model.architecture.linears():
        weight = model.tensor(name)
        scores = weight.abs() * squares[name].sqrt()
        count = round(0.4 * weight.shape[1])
        order = scores.argsort(dim=1, stable=True)[:, :count]
        assert torch.equal(pruned.tensor(name), weight.scatter(1, order, 0.0)), name
    untouched = set(model.entries) - set(model.architecture.linears())
    assert all(pruned.entries[name] is model.entries[name] for name in untouched)


def test_rows_at_a_time_sees_the_unpruned_block(tiny: Path) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    pruned = Wanda(rows=3).apply(model, run)
    squares = input_squares(model, run.tokens("test").ids)
    for name in model.architecture.linears()[:7]:
        weight = model.tensor(name)
        order = (weight.abs() * squares[name].sqrt()).argsort(dim=1, stable=True)[:, : weight.shape[1] // 2]
        assert torch.equal(pruned.tensor(name), weight.scatter(1, order, 0.0)), name


@pytest.mark.parametrize("cls", PRUNERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shares_are_exact_and_dtypes_stay(models_folder: Path, cls: type[Any], dtype: str) -> None:
    folder = tiny_model(models_folder, dtype=dtype)
    model = open_folder(folder)
    pruned = cls(sparsity=0.25, compare="row").apply(model, tiny_run(folder))
    for name in model.architecture.linears():
        zeros = (pruned.tensor(name) == 0).float()
        assert (zeros.sum(1) == 0.25 * zeros.shape[1]).all()
        assert pruned.entries[name].format == model.entries[name].format
    assert pruned.entries[EMBEDDING] is model.entries[EMBEDDING]
    assert pruned.nbytes == model.nbytes


@pytest.mark.parametrize("cls", PRUNERS)
@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("4:8", 0.5), ("1:4", 0.75)])
def test_n_to_m_is_exact(tiny: Path, cls: type[Any], pattern: str, sparsity: float) -> None:
    n, m = (int(part) for part in pattern.split(":"))
    pruned = cls(pattern=pattern, sparsity=sparsity).apply(open_folder(tiny), tiny_run(tiny))
    for name in pruned.architecture.linears():
        groups = pruned.tensor(name).reshape(-1, m)
        assert ((groups != 0).sum(1) == n).all()


@pytest.mark.parametrize("cls", PRUNERS)
@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "int4-g32", "int4-g64-asym"])
def test_rounded_models_are_pruned_on_their_grid(tiny: Path, cls: type[Any], name: str) -> None:
    model, run = open_folder(tiny), tiny_run(tiny)
    linears = model.architecture.linears()
    rounded = model.with_changes({each: get(name).fit(model.tensor(each)) for each in linears})
    pruned = cls(sparsity=0.5).apply(rounded, run)
    assert pruned.nbytes == rounded.nbytes
    for each in linears:
        assert pruned.entries[each].format == name
        assert (pruned.tensor(each) == 0).float().mean() >= 0.5
        if cls is not SparseGpt:
            kept = pruned.tensor(each) != 0
            assert torch.equal(pruned.tensor(each)[kept], rounded.tensor(each)[kept])


@pytest.mark.parametrize(
    ("random", "real"),
    [
        (Magnitude(score="random"), Magnitude()),
        (Wanda(score="random"), Wanda()),
        (Wanda(score="reversed"), Wanda()),
        (SparseGpt(score="random"), SparseGpt()),
    ],
)
def test_controls_prune_as_much_elsewhere(tiny: Path, random: Technique, real: Technique) -> None:
    model = open_folder(tiny)
    zeros = [
        torch.cat([(result.tensor(name) == 0).flatten() for name in model.architecture.linears()])
        for result in (random.apply(model, tiny_run(tiny)), real.apply(model, tiny_run(tiny)))
    ]
    assert zeros[0].sum() == zeros[1].sum()
    assert not torch.equal(zeros[0], zeros[1])


def test_a_random_mask_depends_on_the_seed(tiny: Path) -> None:
    model = open_folder(tiny)
    prints = {Magnitude(score="random").apply(model, Run(seed=seed)).fingerprint for seed in (0, 0, 1)}
    assert len(prints) == 2


def test_a_pattern_that_does_not_fit_is_refused(tiny: Path) -> None:
    with pytest.raises(FormatError, match="multiple of m"):
        Wanda(pattern="3:5", sparsity=0.4).apply(open_folder(tiny), tiny_run(tiny))
