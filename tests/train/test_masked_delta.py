"""The masked low-rank change: where it starts, what is trained is what is stored, what may not move does not."""

from __future__ import annotations

import pytest
import torch

from featherweight.core.checkpoint import values
from featherweight.core.formats import get
from featherweight.core.patched import Merged, Patchable, Separate
from featherweight.train.factor_masks import FactorMasks, row_fraction
from featherweight.train.loop import Schedule, minimise
from featherweight.train.masked_delta import MaskedDelta


def random(rows: int, columns: int, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def matrices(separate: bool) -> dict[str, Patchable]:
    packed = {name: get("int3-g32").fit(random(16, 64, seed)) for seed, name in enumerate(("one", "two"))}
    return {name: Separate(each, "int4-g32") if separate else Merged(each) for name, each in packed.items()}


def delta(separate: bool, rank: int = 4) -> MaskedDelta:
    return MaskedDelta(matrices(separate), rank, 8.0, torch.Generator().manual_seed(9))


def trained(patch: MaskedDelta, steps: int = 20, **hooks: object) -> list[float]:
    target = {name: each + 0.1 for name, each in patch.before.items()}

    def loss(step: int) -> torch.Tensor:
        weights = patch.weights()
        return sum((weights[name] - target[name]).square().sum() for name in weights)  # type: ignore[return-value]

    return minimise(patch.factors, loss, Schedule(steps, 0.02), **hooks)  # type: ignore[arg-type]


@pytest.mark.parametrize("separate", [False, True])
def test_it_starts_where_the_rounded_model_is(separate: bool) -> None:
    patch = delta(separate)
    assert all(torch.equal(each, patch.before[name]) for name, each in patch.weights().items())
    assert all(torch.equal(values(each), patch.before[name]) for name, each in patch.stored().items())
    assert all(each.requires_grad is False for each in patch.weights().values())


@pytest.mark.parametrize("separate", [False, True])
def test_what_is_trained_is_what_is_stored(separate: bool) -> None:
    patch = delta(separate)
    patch.masks = {name: random(16, 64, 5) > 0 for name in patch.masks}
    losses = trained(patch)
    assert losses[-1] < losses[0]
    for name, stored in patch.stored().items():
        torch.testing.assert_close(values(stored), patch.weights()[name].detach(), rtol=0, atol=1e-6)
        assert torch.equal(values(stored)[~patch.masks[name]], patch.before[name][~patch.masks[name]])
        assert not torch.equal(values(stored), patch.before[name])


def test_the_gradient_passes_the_rounding_and_stops_at_the_mask() -> None:
    patch = delta(False)
    patch.masks = {name: torch.zeros_like(mask) for name, mask in patch.masks.items()}
    patch.masks["one"][3] = True
    for factor in patch.factors:
        factor.requires_grad_()
    sum(each.sum() for each in patch.weights().values()).backward()  # type: ignore[union-attr]
    assert patch.low_rank["one"].b.grad[3].abs().min() > 0  # type: ignore[index]
    assert patch.low_rank["one"].b.grad[4].abs().max() == 0  # type: ignore[index]
    assert patch.low_rank["two"].b.grad.abs().max() == 0  # type: ignore[union-attr]


def test_rank_is_at_most_the_smaller_side() -> None:
    low_rank = delta(False, rank=100).low_rank["one"]
    assert (low_rank.a.shape, low_rank.b.shape) == ((16, 64), (16, 16))
    assert low_rank.scaling == 8.0 / 100


def test_row_fraction_takes_the_fullest_rows_and_columns() -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, :5] = mask[3, :4] = mask[0, 5] = True
    columns, rows = row_fraction(mask, 0.5)
    assert rows.squeeze(1).tolist() == [False, True, False, True]
    assert columns.squeeze(0).tolist()[:4].count(True) == 3
    full = row_fraction(mask, 1.0)
    assert bool(full[0].all())
    assert bool(full[1].all())


def test_factors_that_may_not_move_do_not_even_by_moments() -> None:
    patch = delta(False)
    held = FactorMasks(patch.low_rank, 0.5)
    every = {name: torch.ones_like(mask) for name, mask in patch.masks.items()}
    held.choose(every)
    held._pairs = [(factor, torch.ones_like(mask)) for factor, mask in held._pairs]
    frozen = {name: mask.clone() for name, mask in every.items()}
    for mask in frozen.values():
        mask[8:] = False
    before: list[torch.Tensor] = []

    def refresh(step: int) -> None:
        if step == 10:  # by now Adam has moments everywhere
            held.choose(frozen)
            before.extend(each.b.detach().clone() for each in patch.low_rank.values())
        held.before_update(step)

    trained(patch, 20, before_update=refresh, after_update=held.after_update)
    for each, earlier in zip(patch.low_rank.values(), before, strict=True):
        assert torch.equal(each.b.detach()[8:], earlier[8:])
        assert not torch.equal(each.b.detach()[:8], earlier[:8])
