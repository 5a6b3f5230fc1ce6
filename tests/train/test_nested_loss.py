"""The mean over states has the value and the gradient of the mean, however often it is differentiated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from featherweight.train.nested_loss import mean_over_states


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 1).double()


def test_value_and_gradient_are_the_means(model) -> None:
    x, state = torch.randn(9, 6, dtype=torch.float64), {"power": 0}

    @contextmanager
    def power(value: int) -> Iterator[None]:
        state["power"] = value
        yield
        state["power"] = 0

    def loss() -> torch.Tensor:
        return model(x).pow(state["power"]).mean()

    expected = torch.zeros(())
    for each in (1, 2, 3):
        with power(each):
            expected = expected + loss() / 3
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    model.weight.grad = torch.ones_like(model.weight)  # of an earlier part of the same update
    mean = mean_over_states([partial(power, each) for each in (1, 2, 3)], loss, model.parameters())
    assert mean.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
    (2 * mean).backward()
    torch.testing.assert_close(model.weight.grad, 1 + 2 * gradients[0])
    torch.testing.assert_close(model.bias.grad, 2 * gradients[1])


def test_a_loss_that_depends_on_nothing_has_no_gradient(model) -> None:
    @contextmanager
    def state() -> Iterator[None]:
        yield

    mean = mean_over_states([state], lambda: torch.zeros(()), model.parameters())
    mean.backward() if mean.requires_grad else None
    assert mean.item() == 0
    assert model.weight.grad is None


def test_an_error_leaves_the_gradients(model) -> None:
    @contextmanager
    def state() -> Iterator[None]:
        yield

    model.weight.grad = torch.ones_like(model.weight)

    def broken() -> torch.Tensor:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        mean_over_states([state], broken, model.parameters())
    assert torch.equal(model.weight.grad, torch.ones_like(model.weight))
