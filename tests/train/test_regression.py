"""Softmax regression: the one answer of a convex problem, whatever the scale of the features."""

from __future__ import annotations

import pytest
import torch

from featherweight.train.regression import softmax_regression


def rows(classes: int = 4, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(classes, (count,), generator=generator)
    return torch.randn(count, 6, generator=generator) + torch.eye(classes, 6)[targets], targets


def test_it_is_where_nothing_improves() -> None:
    features, targets = rows()
    layer = softmax_regression(features, targets, 4, ridge=0.01)
    mean, scale = features.mean(0), features.std(0, correction=0)
    weight = (layer.weight * scale).double().requires_grad_(True)
    bias = (layer.bias + layer.weight @ mean).double().requires_grad_(True)
    logits = ((features - mean) / scale).double() @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, targets) + 0.005 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-4
    assert float(bias.grad.abs().max()) < 1e-4


def test_features_may_be_scaled_and_moved() -> None:
    features, targets = rows()
    one = softmax_regression(features, targets, 4)(features)
    other = softmax_regression(1000 * features - 7, targets, 4)(1000 * features - 7)
    torch.testing.assert_close(one, other, atol=0.02, rtol=0.01)


def test_scikit_learn_finds_the_same() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets = rows()
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    ours = softmax_regression(features, targets, 4, ridge=0.02)(features).softmax(1)
    theirs = linear_model.LogisticRegression(C=1 / (0.02 * len(features)), tol=1e-8, max_iter=1000).fit(scaled, targets)
    torch.testing.assert_close(
        ours.double(), torch.from_numpy(theirs.predict_proba(scaled)).double(), atol=2e-3, rtol=0
    )


def test_a_class_that_does_not_occur_and_a_feature_that_never_changes() -> None:
    features, targets = rows(2)
    features[:, 3] = 5.0
    layer = softmax_regression(features, targets, 3)
    assert bool(torch.isfinite(layer(features)).all())
    assert not bool((layer(features).argmax(1) == 2).any())
