"""Training under masks: what a mask drops does not move, whatever the optimizer remembers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from two_layers import START, loss_of

from featherweight.core.errors import TrainingError
from featherweight.train.loop import Schedule
from featherweight.train.masked import Loss, Masks, OptimizerOf, adam, masked, train_masked

OPTIMIZERS: dict[str, OptimizerOf] = {
    "sgd": lambda each: torch.optim.SGD(each),
    "momentum": lambda each: torch.optim.SGD(each, momentum=0.9),
    "adam": adam,
    "decay": lambda each: torch.optim.AdamW(each, weight_decay=0.1),
}


def drawn_masks(seed: int, density: float = 0.5) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(START[name].shape, generator=generator) < density for name in ("first", "second")}


def plain_loop(
    mask: Masks, losses: list[Loss], optimizer: OptimizerOf, steps: int, rate: float = 0.05
) -> dict[str, torch.Tensor]:
    """Joint training of one sparse network, written without any of the code under test."""
    weights = {name: value.clone().requires_grad_(True) for name, value in START.items()}
    chosen = optimizer(list(weights.values()))
    for group in chosen.param_groups:
        group["lr"] = rate
    for step in range(steps):
        chosen.zero_grad()
        used = {name: value * mask[name] if name in mask else value for name, value in weights.items()}
        losses[step % len(losses)](used, step // len(losses)).backward()
        chosen.step()
    return {name: value.detach() for name, value in weights.items()}


def test_the_gradient_is_exactly_zero_outside_the_mask() -> None:
    mask = drawn_masks(0)
    weights = {name: value.clone().requires_grad_(True) for name, value in START.items()}
    loss_of(0)(masked(weights, mask), 0).backward()
    for name, kept in mask.items():
        assert not weights[name].grad[~kept].any()
        assert weights[name].grad[kept].any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_update_moves_only_what_its_mask_keeps(optimizer: OptimizerOf) -> None:
    masks, losses = [drawn_masks(seed) for seed in range(3)], [loss_of(seed) for seed in range(3)]
    seen = [train_masked(START, masks, losses, Schedule(steps, 0.05, decay="none"), optimizer) for steps in range(10)]
    for step in range(9):
        before, after, mask = seen[step], seen[step + 1], masks[step % 3]
        for name, kept in mask.items():
            assert torch.equal(before[name][~kept], after[name][~kept])
            assert not torch.equal(before[name][kept], after[name][kept])
        assert not torch.equal(before["bias"], after["bias"])


def test_adam_would_leak_if_only_gradients_were_masked() -> None:
    """The trap itself: momentum from one subset's updates moves the weights during another's."""
    masks = [drawn_masks(0), drawn_masks(1)]
    weights = {name: value.clone().requires_grad_(True) for name, value in START.items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=0.05)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(step)(masked(weights, masks[step]), 0).backward()
        before = {name: value.detach().clone() for name, value in weights.items()}
        optimizer.step()
    only_first = {name: masks[0][name] & ~masks[1][name] for name in masks[0]}
    assert any(not torch.equal(before[name][each], weights[name][each]) for name, each in only_first.items())


def test_moments_outside_the_mask_stay_as_they_were() -> None:
    """Turns of another subset change nothing for weights that only the first one keeps, so its second turn is the same.

    Checked against an Adam of which each weight sees only its own turns; the number of all turns corrects the start.
    """
    one, other = drawn_masks(0), drawn_masks(1)
    made: list[torch.optim.Optimizer] = []

    def watched(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        made.append(adam(parameters))
        return made[-1]

    def moments(updates: int) -> list[dict[str, torch.Tensor]]:
        train_masked(START, [one, other], [loss_of(0), loss_of(1)], Schedule(updates, 0.05, decay="none"), watched)
        return [dict(each) for each in made[-1].state.values()]

    after_one, after_two = moments(1), moments(2)
    for name, before, after in zip(START, after_one, after_two, strict=True):
        if name in other:
            for key in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(before[key][~other[name]], after[key][~other[name]])
                assert not torch.equal(before[key][other[name]], after[key][other[name]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_equal_masks_give_the_trajectory_of_joint_training(optimizer: OptimizerOf, steps: int) -> None:
    mask, losses = drawn_masks(2), [loss_of(seed) for seed in range(3)]
    found = train_masked(START, [mask] * 3, losses, Schedule(steps, 0.05, decay="none"), optimizer)
    expected = plain_loop(mask, losses, optimizer, steps)
    assert all(torch.equal(masked(found, mask)[name], masked(expected, mask)[name]) for name in START)


def test_full_masks_give_plain_training() -> None:
    full = {name: torch.ones_like(START[name], dtype=torch.bool) for name in ("first", "second")}
    losses = [loss_of(0), loss_of(1)]
    found = train_masked(START, [full, full], losses, Schedule(6, 0.05, decay="none"))
    expected = plain_loop({}, losses, adam, 6)
    assert all(torch.equal(found[name], expected[name]) for name in START)


def test_the_start_is_never_written_to() -> None:
    before = {name: value.clone() for name, value in START.items()}
    train_masked(START, [drawn_masks(0)], [loss_of(0)], Schedule(3, 0.5))
    assert all(torch.equal(before[name], START[name]) for name in START)
    assert not any(value.requires_grad for value in START.values())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"third": torch.ones(2, 2, dtype=torch.bool)}, "third.*no such weight"),
        ({"first": torch.ones(5, 6, dtype=torch.bool)}, r"first \[5, 6\].*\[6, 5\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Masks, message: str) -> None:
    ran: list[Callable[..., object]] = []
    with pytest.raises(TrainingError, match=message):
        train_masked(START, [mask], [lambda weights, batch: ran.append(loss_of) or torch.zeros(())], Schedule(1, 0.1))
    assert not ran
