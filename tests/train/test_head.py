"""The head: what folding the standardisation leaves is the same function, and it learns."""

from __future__ import annotations

import torch

from featherweight.core.numerics import mean_and_scale
from featherweight.models.grafted import dense_layers
from featherweight.train.head import Fitting, _fold, train_head


def test_folding_keeps_the_function() -> None:
    features = 100 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) + 7
    features[:, 2] = 3.0
    head = dense_layers([6, 4, 3], torch.Generator().manual_seed(1))
    mean, scale = mean_and_scale(features)
    expected = head((features - mean) / scale)
    _fold(head[0], mean, scale)
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-4)


def test_learns_and_repeats() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (90,), generator=generator)
    features = 1000 * torch.randn(90, 8, generator=generator)
    features[:, 0] = 1e-3 * targets
    heads = []
    for _ in range(2):
        made = torch.Generator().manual_seed(2)
        head = dense_layers([8, 16, 3], made)
        train_head(head, features, targets, Fitting(steps=150, learning_rate=1e-2), made)
        heads.append(head)
    assert float((heads[0](features).argmax(1) == targets).double().mean()) > 0.95
    assert all(torch.equal(one, other) for one, other in zip(heads[0].parameters(), heads[1].parameters(), strict=True))
    assert not any(each.requires_grad for each in heads[0].parameters())


def test_dense_layers_have_no_more_than_their_weights() -> None:
    assert sum(each.numel() for each in dense_layers([768, 256, 9]).parameters()) == 199_177
