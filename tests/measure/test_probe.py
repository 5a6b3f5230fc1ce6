"""Linear probes in their dual form equal ridge regression on the features themselves."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.numerics import mean_and_scale
from featherweight.measure.probe import kernel_of, probe_accuracy


def rows(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    features = torch.randn(count, 5, generator=generator) + 1.5 * torch.eye(5)[targets]
    return features, targets


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_equals_ridge_regression(ridge: float) -> None:
    (x, y), (x2, y2) = rows(40, 0), rows(30, 1)
    mean, scale = mean_and_scale(x.double())
    one, other = (x.double() - mean) / scale, (x2.double() - mean) / scale
    wanted = torch.nn.functional.one_hot(y).double()
    weights = torch.linalg.solve(one.T @ one + 5 * ridge * torch.eye(5), one.T @ (wanted - wanted.mean(0)))
    expected = float(((other @ weights + wanted.mean(0)).argmax(1) == y2).double().mean())
    assert probe_accuracy([kernel_of(x, x2)], y, y2, ridge) == expected


def test_separable_classes_are_found_and_noise_is_not() -> None:
    (x, y), (x2, y2) = rows(60, 2), rows(60, 3)
    assert probe_accuracy([kernel_of(10 * torch.eye(3)[y], 10 * torch.eye(3)[y2])], y, y2) == 1.0
    noise = kernel_of(torch.randn(60, 5), torch.randn(60, 5))
    assert probe_accuracy([noise], y, y2) < probe_accuracy([kernel_of(x, x2)], y, y2)


def test_a_constant_feature_changes_nothing() -> None:
    (x, _), (x2, _) = rows(40, 4), rows(40, 5)
    with_constant = kernel_of(*(torch.cat([each, torch.full((40, 1), 7.0)], 1) for each in (x, x2)))
    torch.testing.assert_close(with_constant.training * 6, kernel_of(x, x2).training * 5)
