"""The technique: conforming, what each objective trains, folding, and its refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from featherweight.core.errors import RecipeError
from featherweight.core.source import open_folder
from featherweight.techniques.adapt.lora import Lora
from featherweight.techniques.adapt.matryoshka_lora import MatryoshkaLora
from featherweight.testing import check_technique
from featherweight.testing.tiny import tiny_run
from featherweight.train.adapters import fold

QUICK = {"steps": 2, "batch": 2, "rank": 4, "learning_rate": 1e-2}


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_conforms(model_type: str) -> None:
    check_technique(MatryoshkaLora, MatryoshkaLora(**QUICK), model_type)


def _trained(tiny, **changes):
    model, run = open_folder(tiny), tiny_run(tiny)
    technique = MatryoshkaLora(**{**QUICK, **changes})
    adapted = technique.attach(model, run)
    course = technique.train(adapted, technique.rows(model, run), run)
    return technique, model, run, adapted, course.losses


def _adapter(adapted) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in adapted.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("objective", ["sum_of_outputs", "sum_of_losses", "sampled"])
@pytest.mark.parametrize("serve", ["drop_weight", "keep_weight"])
def test_folded_computes_the_full_rank(tiny, objective, serve) -> None:
    _, model, run, adapted, losses = _trained(tiny, objective=objective, serve=serve, dropout=0.1)
    assert len(losses) == 2
    ids = run.calibration.ids[:2]
    with torch.no_grad():
        full = adapted(input_ids=ids).logits
        adapted.set_rank(4)
        assert torch.equal(adapted(input_ids=ids).logits, full)
        folded = fold(model, adapted, run).module()(input_ids=ids).logits
    assert (folded - full).abs().max() < 1e-5 * full.abs().max().clamp(min=1)
    assert (full - model.module()(input_ids=ids).logits).abs().max() > 1e-4


@pytest.mark.parametrize("objective", ["sum_of_outputs", "sum_of_losses", "sampled"])
def test_one_rank_alone_learns_as_lora_does(tiny, objective) -> None:
    """S = {R} with scale 1 is LoRA with alpha = rank, whatever the objective."""
    model, run = open_folder(tiny), tiny_run(tiny)
    ids, gradients, start = run.calibration.ids[:2], [], {}
    for technique in (Lora(rank=4, alpha=4), MatryoshkaLora(rank=4, ranks=(4,), objective=objective)):
        adapted = technique.attach(model, run).train()
        start = start or _adapter(adapted)
        adapted.load_state_dict(start, strict=False)
        loss = partial(_loss, adapted, ids)
        technique.step_loss(adapted, loss, torch.Generator()).backward()
        gradients.append([each.grad for each in adapted.parameters() if each.requires_grad])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def _loss(adapted, ids: torch.Tensor) -> torch.Tensor:
    return adapted(input_ids=ids, labels=ids).loss


def test_mean_loss_of_all_ranks_and_its_gradient(tiny) -> None:
    technique = MatryoshkaLora(**QUICK)
    model, run = open_folder(tiny), tiny_run(tiny)
    adapted = technique.attach(model, run)
    ids = run.calibration.ids[:2]
    with torch.no_grad():
        for name, each in adapted.named_parameters():
            if "lora_B" in name:
                each.normal_(0, 0.1)

    loss = partial(_loss, adapted, ids)
    found = technique.step_loss(adapted, loss, torch.Generator())
    found.backward()
    gradients = {name: each.grad.clone() for name, each in adapted.named_parameters() if each.grad is not None}
    adapted.zero_grad()
    losses = []
    for rank in (1, 2, 4):
        with adapted.at_rank(rank):
            losses.append(loss() / 3)
            losses[-1].backward()
    assert found.item() == pytest.approx(sum(losses).item(), rel=1e-6)
    for name, each in adapted.named_parameters():
        if each.grad is not None:
            torch.testing.assert_close(gradients[name], each.grad)


@pytest.mark.parametrize("frozen", [False, True])
def test_sampled_trains_the_drawn_rank(tiny, frozen) -> None:
    every = tuple(range(1, 5))
    technique = MatryoshkaLora(**QUICK, objective="sampled", frozen=frozen, ranks=every)
    model, run = open_folder(tiny), tiny_run(tiny)
    adapted = technique.attach(model, run)
    ids = run.calibration.ids[:1]
    loss = partial(_loss, adapted, ids)
    drawn = set()
    for seed in range(12):
        [(rank, first)] = technique.trained_ranks(torch.Generator().manual_seed(seed))
        drawn.add(rank)
        assert first == (rank - 1 if frozen else 0)
        adapted.zero_grad()
        technique.step_loss(adapted, loss, torch.Generator().manual_seed(seed)).backward()
        gradient = adapted.get_base_model().model.layers[0].mlp.up_proj.lora_B["default"].weight.grad
        learnt = {index for index in range(4) if gradient[:, index].abs().max() > 0}
        assert learnt == ({rank - 1} if frozen else set(range(rank)))
    assert drawn == set(every)


def test_frozen_block_between_ranks() -> None:
    technique = MatryoshkaLora(rank=12, objective="sampled", frozen=True)
    found = {technique.trained_ranks(torch.Generator().manual_seed(seed))[0] for seed in range(60)}
    assert found == {(1, 0), (2, 1), (4, 2), (8, 4), (12, 8)}


def test_configuration_says_what_the_fields_say(tiny) -> None:
    technique = MatryoshkaLora(rank=8, scaling="sqrt", init="paper", objective="sum_of_outputs", divide_by_ranks=True)
    config = technique.peft_config(open_folder(tiny))
    assert (config.ranks, config.scaling, config.init) == ([1, 2, 4, 8], "sqrt", "paper")
    assert config.divide_by_ranks
    assert (config.r, config.task_type) == (8, "CAUSAL_LM")


def test_refusals(tiny) -> None:
    model = open_folder(tiny)
    with pytest.raises(RecipeError, match=r"nested ranks \[1, 64\]: must be between 1 and the adapter's rank, 8"):
        MatryoshkaLora(rank=8, ranks=(1, 64)).peft_config(model)
    with pytest.raises(RecipeError, match=r"rank 65: is above the size of"):
        MatryoshkaLora(rank=65).peft_config(model)
