"""The optimisation loop: what it reaches, what it repeats, when it stops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import TrainingError
from featherweight.train.loop import Schedule, minimise, shuffled


def squares(parameter: torch.Tensor) -> torch.Tensor:
    return ((parameter - torch.tensor([1.0, -2.0])) ** 2).sum()


def test_a_quadratic_is_minimised() -> None:
    parameter = torch.zeros(2)
    losses = minimise([parameter], lambda _: squares(parameter), Schedule(200, 0.1, warmup=5))
    assert losses[-1] < 1e-3 < losses[0]
    assert torch.allclose(parameter.detach(), torch.tensor([1.0, -2.0]), atol=0.02)


def test_accumulating_the_same_loss_changes_nothing() -> None:
    one, many = torch.zeros(2), torch.zeros(2)
    minimise([one], lambda _: squares(one), Schedule(10, 0.1))
    minimise([many], lambda _: squares(many), Schedule(10, 0.1), accumulate=4)
    assert torch.equal(one, many)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_step() -> None:
    parameter, seen = torch.zeros(2), []

    def loss(step: int) -> torch.Tensor:
        seen.append(parameter.detach().clone())
        return squares(parameter) * (float("nan") if step == 3 else 1.0)

    with pytest.raises(TrainingError, match="step 3"):
        minimise([parameter], loss, Schedule(10, 0.1))
    assert torch.equal(parameter.detach(), seen[3])


def test_masked_gradients_and_restored_parameters() -> None:
    parameter = torch.zeros(2)

    def mask(step: int) -> None:
        parameter.grad[1] = 0

    minimise([parameter], lambda _: squares(parameter), Schedule(5, 0.1), before_update=mask)
    assert parameter[0] != 0
    assert parameter[1] == 0


def test_stopping_early() -> None:
    parameter = torch.zeros(2)
    losses = minimise([parameter], lambda _: squares(parameter), Schedule(50, 0.1), stop=lambda step, _: step == 6)
    assert len(losses) == 7


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_an_epoch_takes_every_row_once(rows: int, batch: int, seed: int) -> None:
    batch_of = shuffled(rows, batch, torch.Generator().manual_seed(seed))
    steps = rows // min(batch, rows)
    taken = [row for step in range(steps) for row in batch_of(step)]
    assert len(taken) == len(set(taken)) == steps * min(batch, rows)
    assert batch_of(0) == taken[: min(batch, rows)]  # asking again gives the same


@given(st.integers(1, 100), st.integers(0, 20), st.sampled_from(["cosine", "linear", "none"]))
def test_a_schedule_rises_once_and_never_exceeds_its_rate(steps: int, warmup: int, decay: str) -> None:
    rates = [Schedule(steps, 0.5, min(warmup, steps), decay).at(step) for step in range(steps)]
    assert max(rates) <= 0.5
    assert min(rates) >= 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_groups_with_rates_of_their_own() -> None:
    slow, fast = torch.zeros(2), torch.zeros(2)
    optimizer = torch.optim.SGD([{"params": [slow], "factor": 0.5}, {"params": [fast]}], lr=1.0)
    minimise([slow, fast], lambda _: (slow + fast).sum(), Schedule(1, 0.1), optimizer=optimizer, clip=None)
    torch.testing.assert_close(slow.detach(), torch.full((2,), -0.05))
    torch.testing.assert_close(fast.detach(), torch.full((2,), -0.1))
