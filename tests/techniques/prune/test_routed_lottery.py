"""Routing the lottery on a language model: masks by domain, shared weights, the controls, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from featherweight.core.data import TokenSet
from featherweight.core.errors import DataError, RecipeError
from featherweight.core.model import Model
from featherweight.core.progress import Progress
from featherweight.core.run import Run
from featherweight.core.source import open_folder
from featherweight.core.technique import build
from featherweight.measure.overlap import count, independent_jaccard, overlap_of, size, union_of
from featherweight.measure.quality import compare
from featherweight.models.routed_checkpoint import fold, is_routed, masks_of, router_of
from featherweight.techniques.prune.routed_lottery import RoutedLottery, by_domain
from featherweight.techniques.prune.wanda import Wanda
from featherweight.testing.tiny import tiny_tokens

DOMAINS = ("prose", "numbers")


def two_domains(folder: Path) -> TokenSet:
    """Six rows of prose and four rows of arithmetic progressions."""
    prose = tiny_tokens(folder, rows=6, length=24)
    numbers = (torch.arange(24) * torch.tensor([[1], [3], [5], [7]]) + 40) % 100 + 3
    return TokenSet(torch.cat([prose.ids, numbers]), ("prose",) * 6 + ("numbers",) * 4, tuple(range(10)))


def run_on(folder: Path, seed: int = 0) -> Run:
    return Run(calibration=two_domains(folder), seed=seed)


def feed_forward(model: Model) -> list[str]:
    return [name for name in model.architecture.linears() if ".mlp." in name]


def masks(model: Model) -> dict[str, dict[str, torch.Tensor]]:
    return {domain: masks_of(model, domain) for domain in router_of(model).domains}


def domain_loss(model: Model, tokens: TokenSet) -> float:
    with torch.inference_mode():
        found = model.module()(tokens.ids).logits[:, :-1]
    return float(torch.nn.functional.cross_entropy(found.flatten(0, 1), tokens.ids[:, 1:].flatten()))


def test_one_domain_one_round_and_no_training_is_wanda(any_architecture: Path) -> None:
    model = open_folder(any_architecture)
    run = Run(calibration=tiny_tokens(any_architecture, rows=4, length=24))
    routed = RoutedLottery(sparsity=0.5, steps=0, parts="all").apply(model, run)
    expected = Wanda(sparsity=0.5).apply(model, run)
    assert fold(routed, None).fingerprint == dataclasses.replace(expected, config=fold(routed, None).config).fingerprint
    shared = RoutedLottery(sparsity=0.5, steps=0, parts="all", masks="shared").apply(model, run)
    assert shared.fingerprint == expected.fingerprint


def test_every_domain_has_the_sparsity_and_weights_outside_the_union_are_zero(tiny: Path) -> None:
    model = open_folder(tiny)
    result = RoutedLottery(sparsity=0.75, steps=3, learning_rate=1e-2).apply(model, run_on(tiny))
    assert is_routed(result)
    assert router_of(result).domains == DOMAINS
    assert router_of(result).fallback == "prose"
    found = masks(result)
    assert found["prose"].keys() == set(feed_forward(model))
    union = union_of(list(found.values()))
    for name in feed_forward(model):
        for domain in DOMAINS:
            assert (found[domain][name].sum(1) == model.entries[name].shape[1] // 4).all()
        assert not result.tensor(name)[~union[name]].any()
        assert not torch.equal(result.tensor(name)[union[name]], model.tensor(name)[union[name]])
    for name in set(model.entries) - set(feed_forward(model)):
        assert torch.equal(result.tensor(name), model.tensor(name))
    assert any(not torch.equal(found["prose"][name], found["numbers"][name]) for name in union)


def test_without_training_the_kept_weights_are_the_given_ones_bit_for_bit(tiny: Path) -> None:
    model = open_folder(tiny)
    for score in ("activation", "trained", "random"):
        result = RoutedLottery(score=score, steps=0, ticket_steps=2, rounds=2).apply(model, run_on(tiny))
        union = union_of(list(masks(result).values()))
        for name in feed_forward(model):
            assert torch.equal(result.tensor(name), model.tensor(name).masked_fill(~union[name], 0))


def test_joint_training_helps_each_domain_and_the_right_mask_is_the_better_one(trained: Path) -> None:
    model, run = open_folder(trained), run_on(trained)
    tokens = by_domain(two_domains(trained))
    before = RoutedLottery(sparsity=0.6, steps=0).apply(model, run)
    after = RoutedLottery(sparsity=0.6, steps=15, learning_rate=3e-3).apply(model, run)
    for domain, other in (DOMAINS, DOMAINS[::-1]):
        right = domain_loss(fold(after, domain), tokens[domain])
        assert right < domain_loss(fold(before, domain), tokens[domain])
        assert right < domain_loss(fold(after, other), tokens[domain])


def test_fold_gives_an_ordinary_model(tiny: Path) -> None:
    model, run = open_folder(tiny), run_on(tiny)
    whole = RoutedLottery(steps=2).apply(model, run)
    folded = RoutedLottery(steps=2, fold="numbers").apply(model, run)
    assert not is_routed(folded)
    assert folded.fingerprint == fold(whole, "numbers").fingerprint
    assert RoutedLottery(fold="numbers").apply(whole, run).fingerprint == folded.fingerprint
    assert router_of(RoutedLottery(steps=0, fallback="numbers").apply(model, run)).fallback == "numbers"


def test_random_masks_overlap_as_independent_ones_do(tiny: Path) -> None:
    result = RoutedLottery(sparsity=0.7, score="random", steps=0).apply(open_folder(tiny), run_on(tiny))
    found = overlap_of(masks(result))
    assert found.jaccard == pytest.approx(independent_jaccard(0.3), abs=0.01)


def test_the_equal_storage_control_keeps_what_union_and_masks_take(tiny: Path) -> None:
    model, run = open_folder(tiny), run_on(tiny)
    settings = {"sparsity": 0.75, "steps": 0, "compare": "matrix"}
    found = masks(RoutedLottery(**settings).apply(model, run))
    single = RoutedLottery(**settings, masks="equal-storage").apply(model, run)
    assert not is_routed(single)
    weights = size(found["prose"])
    kept = sum(int((single.tensor(name) != 0).sum()) for name in feed_forward(model))
    routed_bits = 32 * count(union_of(list(found.values()))) + 2 * weights
    assert abs(32 * kept + weights - routed_bits) <= 32 * len(feed_forward(model))
    shared = RoutedLottery(**settings, masks="shared").apply(model, run)
    assert sum(int((shared.tensor(name) != 0).sum()) for name in feed_forward(model)) == weights // 4


def test_training_everything_moves_everything_and_pruned_weights_stay_zero(tiny: Path) -> None:
    model = open_folder(tiny)
    result = RoutedLottery(steps=2, dense=True, learning_rate=1e-2).apply(model, run_on(tiny))
    assert all(not torch.equal(result.tensor(name), model.tensor(name)) for name in model.entries)
    union = union_of(list(masks(result).values()))
    assert not any(result.tensor(name)[~union[name]].any() for name in union)


class Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_the_overlap_of_every_round_is_told_beside_independence(tiny: Path) -> None:
    run = dataclasses.replace(run_on(tiny), progress=Told())
    RoutedLottery(sparsity=0.8, rounds=4, steps=0).apply(open_folder(tiny), run)
    shares = [float(line.split("%")[0]) for line in run.progress.lines]
    assert shares == pytest.approx([20, 40, 60, 80], abs=0.7)
    assert [overlap["independent"] for overlap in run.notes["overlap"]] == pytest.approx(
        [independent_jaccard(1 - share / 100) for share in shares], abs=1e-3
    )
    assert all("Jaccard" in line and "independent" in line and "union" in line for line in run.progress.lines)


def test_pruning_ends_before_the_trend_breaks(tiny: Path) -> None:
    model, run = open_folder(tiny), run_on(tiny)
    settings = {"sparsity": 0.9, "rounds": 6, "steps": 0}
    whole = RoutedLottery(**settings, stop_at=1.0).apply(model, run)
    assert whole.fingerprint == RoutedLottery(**settings).apply(model, run).fingerprint
    stopped = masks(RoutedLottery(**settings, stop_at=1e-9).apply(model, run))
    assert 0.25 < 1 - count(stopped["prose"]) / size(stopped["prose"]) < 0.35  # two rounds of 15 %


def test_quality_is_measured_with_the_mask_of_each_rows_domain(tiny: Path) -> None:
    model, run, tokens = open_folder(tiny), run_on(tiny), two_domains(tiny)
    result = RoutedLottery(sparsity=0.8, steps=0).apply(model, run)
    scores = compare(model, result, tokens, run)
    for domain, rows in by_domain(tokens).items():
        alone = compare(model, fold(result, domain), rows, run)
        chosen = [row for row, each in enumerate(tokens.domains) if each == domain]
        np.testing.assert_allclose(scores.child_nll[chosen], alone.child_nll, rtol=1e-4, atol=1e-4)
    elsewhere = dataclasses.replace(tokens, domains=("law",) * 10)
    fallback = compare(model, fold(result, None), elsewhere, run)
    np.testing.assert_allclose(compare(model, result, elsewhere, run).kl, fallback.kl, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fold": "number"}, "routed-lottery.fold = 'number': is no domain.*did you mean 'numbers'"),
        ({"fallback": "law"}, "routed-lottery.fallback = 'law': is no domain.*use one of prose, numbers"),
    ],
)
def test_a_domain_that_is_not_there(tiny: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        RoutedLottery(**fields).apply(open_folder(tiny), run_on(tiny))


def test_other_refusals(tiny: Path) -> None:
    model, run = open_folder(tiny), run_on(tiny)
    with pytest.raises(RecipeError, match="row or matrix with the score 'activation'"):
        build("routed-lottery", {"compare": "model"})
    with pytest.raises(RecipeError, match="has masks already; set fold"):
        RoutedLottery().apply(RoutedLottery(steps=0).apply(model, run), run)
    with pytest.raises(DataError, match="needs calibration text"):
        RoutedLottery().apply(model, Run())
