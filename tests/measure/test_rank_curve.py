"""AURAC by hand; truncation by singular values; the curve of a nested and of a plain adapter."""

from __future__ import annotations

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.batch import Batch
from featherweight.core.errors import AdapterError
from featherweight.core.source import open_folder
from featherweight.measure.rank_curve import aurac, held_out_loss, rank_curve, truncated, truncated_factors
from featherweight.models.matryoshka_config import MatryoshkaLoraConfig
from featherweight.testing.tiny import tiny_tokens

RANKS = (1, 2, 4, 8, 16, 32)


def test_area_by_hand() -> None:
    found = aurac(RANKS, [10, 20, 30, 40, 50, 60])
    assert found.linear == pytest.approx(46.6129, abs=5e-5)
    assert found.log == pytest.approx(35)
    assert found.mean == pytest.approx(35)
    assert aurac([4], [7.0]).linear == aurac([4], [7.0]).log == 7


@given(value=st.floats(-9, 9), ranks=st.sets(st.integers(1, 256), min_size=1))
def test_area_of_a_constant_is_the_constant(value, ranks) -> None:
    found = aurac(sorted(ranks), [value] * len(ranks))
    assert (found.linear, found.log, found.mean) == pytest.approx((value,) * 3)


@pytest.mark.parametrize(("ranks", "values"), [([], []), ([1, 2], [1]), ([2, 1], [1, 1]), ([1, 1], [1, 1])])
def test_refuses_what_has_no_area(ranks, values) -> None:
    with pytest.raises(AdapterError, match="has no area; give increasing ranks"):
        aurac(ranks, values)


@pytest.mark.parametrize(("inputs", "outputs", "full"), [(12, 9, 4), (3, 9, 5), (12, 2, 6)])
def test_truncation_is_the_best_of_its_rank(inputs, outputs, full) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(full, inputs).double(), torch.randn(outputs, full).double()
    u, values, v = torch.linalg.svd(b @ a, full_matrices=False)
    for rank in range(1, full + 1):
        thin_a, thin_b = truncated_factors(a, b, rank)
        assert (thin_a.shape, thin_b.shape) == (a.shape, b.shape)
        torch.testing.assert_close(thin_b @ thin_a, u[:, :rank] * values[:rank] @ v[:rank])


@pytest.fixture
def held_out(tiny):
    ids = tiny_tokens(tiny, 4, 24).ids
    return [Batch(rows, rows, torch.arange(24).expand_as(rows), torch.zeros_like(rows)) for rows in ids.split(2)]


def _adapted(tiny, config):
    torch.manual_seed(3)
    return peft.get_peft_model(open_folder(tiny).module(), config)


def test_curve_of_a_nested_adapter(tiny, held_out) -> None:
    config = MatryoshkaLoraConfig(r=8, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = _adapted(tiny, config)
    adapted.set_rank(2)
    curve = rank_curve(adapted, held_out)
    assert adapted.training
    assert curve.ranks == (1, 2, 4, 8)
    adapted.eval()
    assert curve.losses[1] == held_out_loss(adapted, held_out)  # the rank that was set is set again
    for rank, loss in zip(curve.ranks, curve.losses, strict=True):
        adapted.set_rank(rank)
        assert loss == held_out_loss(adapted, held_out)
    adapted.set_rank(0)
    assert curve.base == held_out_loss(adapted, held_out)
    assert curve.aurac == aurac(curve.ranks, [-loss for loss in curve.losses])


def test_curve_of_a_plain_adapter(tiny, held_out) -> None:
    adapted = _adapted(tiny, peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    curve = rank_curve(adapted, held_out)
    adapted.eval()
    assert curve.ranks == (1, 2, 4)
    assert curve.losses[-1] == pytest.approx(held_out_loss(adapted, held_out), abs=1e-5)
    assert len({*curve.losses, curve.base}) == 4
    with truncated(adapted, 1):
        layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
        assert torch.linalg.matrix_rank(layer.get_delta_weight("default"), rtol=1e-5) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.state_dict().items())


def test_loss_is_that_of_what_counts(tiny, held_out) -> None:
    model = open_folder(tiny).module()
    [ids] = [batch.ids for batch in held_out[:1]]
    labels = ids.clone()
    labels[:, :10] = -100
    batch = Batch(ids, labels, held_out[0].positions, held_out[0].segments)
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels).loss.item()
    assert held_out_loss(model, [batch]) == pytest.approx(expected, rel=1e-5)
