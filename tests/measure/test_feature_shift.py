"""Feature shift: known values, invariance to units, the order of near and far, and why a probe does not decide."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.errors import DataError
from featherweight.measure.feature_shift import feature_shift, pooled_features, probe_accuracy
from featherweight.models.deformable import backbone
from featherweight.testing.segmenters import coloured_shapes, tiny_mask2former


def drawn(count: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_values_that_are_known() -> None:
    features = drawn()
    assert feature_shift(features, features) == pytest.approx(0, abs=1e-6)
    assert feature_shift(features, features + 2 * features.std(0)) == pytest.approx(2, abs=1e-5)
    assert feature_shift(features, features.mean(0) + 3 * (features - features.mean(0))) == pytest.approx(2, abs=1e-5)


def test_units_and_silent_channels_do_not_matter() -> None:
    first, second = drawn(), drawn(seed=1) + 0.5
    units = torch.tensor([1e-3, 1, 10, 1e3, 7, 0.1])
    before = feature_shift(first, second)
    assert feature_shift(first * units, second * units) == pytest.approx(before, rel=1e-4)
    silent = torch.zeros(40, 1)
    assert feature_shift(torch.cat([first, silent], 1), torch.cat([second, silent], 1)) == pytest.approx(before)


def test_samples_of_one_place_score_what_the_docstring_says() -> None:
    found = [feature_shift(drawn(64, seed), drawn(64, seed + 50)) for seed in range(20)]
    assert sum(found) / len(found) == pytest.approx((3 / 64) ** 0.5, rel=0.25)


def test_inverted_discs_are_farther_than_other_squares() -> None:
    reader = backbone(tiny_mask2former())
    reference, near, far = (
        pooled_features(reader, coloured_shapes(32, seed, discs=far, inverted=far).images)
        for seed, far in ((0, False), (1, False), (2, True))
    )
    assert feature_shift(reference, near) < 0.6 < 1 < feature_shift(reference, far)
    assert reference.shape == (32, 16 + 32 + 48 + 64)


def test_a_probe_saturates_where_the_score_does_not() -> None:
    first, generator = drawn(200), torch.Generator().manual_seed(0)
    near, far = drawn(200, 1) + 4, drawn(200, 2) + 40
    assert probe_accuracy(first, near, generator) == pytest.approx(1, abs=0.02)
    assert probe_accuracy(first, far, generator) == pytest.approx(1, abs=0.02)
    assert feature_shift(first, far) > 5 * feature_shift(first, near)
    assert probe_accuracy(first, drawn(200, 3), generator) == pytest.approx(0.5, abs=0.12)


def test_too_little_is_refused() -> None:
    with pytest.raises(DataError, match="the new images: are 7; give at least 8"):
        feature_shift(drawn(), drawn(7))
    with pytest.raises(DataError, match="the reference images: all look the same to the backbone"):
        feature_shift(torch.ones(9, 3), torch.ones(9, 3))
