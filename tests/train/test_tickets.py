"""Tickets: one subset is iterative magnitude pruning, masks only shrink, rewinding is exact, the control is fair."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from two_layers import START, loss_of

from featherweight.train.loop import Schedule
from featherweight.train.masked import Masks, train_masked
from featherweight.train.tickets import (
    equal_storage,
    full_masks,
    magnitude_pruning,
    prune_in_rounds,
    shrink,
)

NAMES = ("first", "second")
FULL = full_masks({name: START[name].shape for name in NAMES})
TRAINING = Schedule(5, 0.05, decay="none")


def kept(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def iterative_magnitude_pruning(rounds: int, sparsity: float) -> list[tuple[dict, dict]]:
    """Lottery tickets of one data set with Adam, all weights ranked together: masks and weights of every round.

    Written without any of the code under test.
    """
    total = sum(START[name].numel() for name in NAMES)
    mask = {name: torch.ones_like(START[name]) for name in NAMES}
    history = []
    for done in range(1, rounds + 1):
        weights = {name: value.clone().requires_grad_(True) for name, value in START.items()}
        optimizer = torch.optim.Adam(list(weights.values()), lr=0.05)
        for step in range(5):
            optimizer.zero_grad()
            loss_of(0)({name: value * mask.get(name, 1) for name, value in weights.items()}, step).backward()
            optimizer.step()
        drop = round(total * sparsity * done / rounds) - sum(int((each == 0).sum()) for each in mask.values())
        sizes = torch.cat([weights[name].detach().abs().flatten() for name in NAMES])
        sizes[torch.cat([mask[name].flatten() for name in NAMES]) == 0] = torch.inf
        flat = torch.cat([mask[name].flatten() for name in NAMES]).clone()
        flat[sizes.argsort(stable=True)[:drop]] = 0
        first = START["first"].numel()
        mask = {"first": flat[:first].reshape(6, 5), "second": flat[first:].reshape(3, 6)}
        history.append((mask, {name: value.detach() for name, value in weights.items()}))
    return history


def test_one_subset_is_iterative_magnitude_pruning_step_for_step() -> None:
    seen: list[Masks] = []
    prune = magnitude_pruning(START, [loss_of(0)], TRAINING)
    (found,) = prune_in_rounds(1, FULL, prune, 0.75, 4, lambda masks: bool(seen.append(masks[0])))
    expected = iterative_magnitude_pruning(4, 0.75)
    for masks, (mask, _) in zip(seen, expected, strict=True):
        assert all(torch.equal(masks[name].float(), mask[name]) for name in NAMES)
    retrained = train_masked(START, [found], [loss_of(0)], TRAINING)
    ticket = {name: mask.bool() for name, mask in expected[-1][0].items()}
    alone = train_masked(START, [ticket], [loss_of(0)], TRAINING)
    assert all(torch.equal(retrained[name], alone[name]) for name in START)


def test_every_training_of_a_round_starts_at_the_given_weights_bit_for_bit() -> None:
    firsts: list[dict[str, torch.Tensor]] = []

    def watched(weights, batch):
        if batch == 0:
            firsts.append({name: value.detach().clone() for name, value in weights.items()})
        return loss_of(0)(weights, batch)

    masks: list[Masks] = [FULL]
    prune = magnitude_pruning(START, [watched], TRAINING)
    prune_in_rounds(1, FULL, prune, 0.8, 4, lambda found: bool(masks.append(found[0])))
    assert len(firsts) == 4
    for mask, weights in zip(masks, firsts, strict=False):
        for name in NAMES:
            assert torch.equal(weights[name][mask[name]], START[name][mask[name]])
            assert not weights[name][~mask[name]].any()
        assert torch.equal(weights["bias"], START["bias"])


@given(
    st.integers(1, 5), st.floats(0, 0.99), st.sampled_from(["row", "matrix", "model"]), st.integers(0, 20),
    st.booleans(),
)  # fmt: skip
def test_masks_only_shrink_and_reach_the_sparsity_exactly(
    rounds: int, sparsity: float, compare: str, seed: int, equal_scores: bool
) -> None:
    generator, history = torch.Generator().manual_seed(seed), [FULL]

    def prune(subset, masks, target):
        scores = {
            name: torch.rand(each.shape, generator=generator).mul(0 if equal_scores else 1)
            for name, each in FULL.items()
        }
        history.append(shrink(masks, scores, target, compare))
        return history[-1]

    (final,) = prune_in_rounds(1, FULL, prune, sparsity, rounds)
    for before, after in itertools.pairwise(history):
        assert not any((after[name] & ~before[name]).any() for name in NAMES)
    for name in NAMES:
        rows, columns = final[name].shape
        zeros = ~final[name]
        if compare == "row":
            assert (zeros.sum(1) == round(sparsity * columns)).all()
        elif compare == "matrix":
            assert zeros.sum() == round(sparsity * rows * columns)
    if compare == "model":
        total = sum(each.numel() for each in FULL.values())
        assert total - kept(final) == round(sparsity * total)


def test_the_lowest_go_among_those_that_are_left() -> None:
    mask = {"only": torch.tensor([[True, False, True, True]])}
    found = shrink(mask, {"only": torch.tensor([[3.0, 100.0, 1.0, 2.0]])}, 0.5)
    assert found["only"].tolist() == [[True, False, False, True]]


def test_pruning_stops_before_the_round_that_is_broken() -> None:
    generator = torch.Generator().manual_seed(0)

    def prune(subset, masks, target):
        return shrink(masks, {name: torch.rand(each.shape, generator=generator) for name, each in FULL.items()}, target)

    total = sum(each.numel() for each in FULL.values())
    found = prune_in_rounds(2, FULL, prune, 0.8, 4, lambda masks: kept(masks[0]) < 0.5 * total)
    assert [kept(each) for each in found] == [total - round(0.4 * total)] * 2


@given(st.integers(1, 1000), st.integers(1, 12), st.sampled_from([4.5, 8, 16, 32]), st.floats(0, 1))
def test_the_equal_storage_control_takes_what_the_masks_take(
    weights: int, subsets: int, bits: float, share: float
) -> None:
    union = round(share * weights)
    single = equal_storage(union, weights, subsets, bits)
    routed_bits, single_bits = union * bits + subsets * weights, single * bits + weights
    assert single_bits <= routed_bits
    assert single == weights or single_bits + bits > routed_bits


@pytest.mark.parametrize("subsets", [1])
def test_one_subset_is_its_own_equal_storage_control(subsets: int) -> None:
    assert equal_storage(40, 100, subsets, 16) == 40
