"""The planner: what it counts is what there is, and its choice is the quickest that fits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.core.errors import BudgetError
from featherweight.core.formats import get
from featherweight.core.memory import forget_peak, peak_memory, resident_memory
from featherweight.core.model import Model
from featherweight.core.source import open_folder
from featherweight.testing.tiny import tiny_model
from featherweight.train.chunked_head import loss_of
from featherweight.train.frozen_module import frozen_module
from featherweight.train.memory import choices, plan_from, plan_memory
from featherweight.train.memory_facts import _random_batch, base_bytes, facts_of, saved_bytes, trained_parameters
from featherweight.train.memory_terms import DENSE, DISK, STORED, Facts, Levers, Shape
from featherweight.train.spill import Spill


class Method:
    """A LoRA on all linears, without the rest of a technique."""

    def __init__(self, rank: int = 4) -> None:
        self.rank = rank

    def peft_config(self, model: Model) -> peft.PeftConfig:
        return peft.LoraConfig(r=self.rank, target_modules="all-linear")

    def step_loss(self, adapted: Any, loss: Any, generator: torch.Generator) -> torch.Tensor:
        return loss()


def model_of(folder: Path, **changes: object) -> Model:
    return open_folder(tiny_model(folder, num_hidden_layers=4, **changes))  # type: ignore[arg-type]


def in_memory(module: torch.nn.Module) -> int:
    frozen = {id(each.frozen): each.frozen.nbytes for each in module.modules() if hasattr(each, "frozen")}
    parameters = {each.data_ptr(): each.numel() * each.element_size() for each in module.parameters()}
    return sum(frozen.values()) + sum(parameters.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("base", [DENSE, STORED, DISK, "int4-g32", "Q8_0"])
def test_weights_are_counted_exactly(tmp_path: Path, tied: bool, base: str) -> None:
    model = model_of(tmp_path, tie_word_embeddings=tied, dtype="bfloat16")
    counted = base_bytes(model, ["int4-g32", "Q8_0"])
    with Spill(tmp_path / "spill") as spill:
        assert in_memory(frozen_module(model, base, spill)) == counted[base]


def test_trained_parameters_and_optimizer_states_are_counted_exactly(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    facts = facts_of(model, Method(), Shape(1, 16))
    adapted = peft.get_peft_model(model.module(), Method().peft_config(model))
    trained = [each for each in adapted.parameters() if each.requires_grad]
    assert facts.adapter == sum(4 * each.numel() for each in trained)
    optimizer = torch.optim.AdamW(trained)
    loss_of(adapted, _random_batch(Shape(1, 16), 512))[0].backward()
    optimizer.step()
    states = [each for state in optimizer.state.values() for each in state.values() if each.numel() > 1]
    assert facts.optimizer == sum(each.numel() * 4 for each in states)


@pytest.mark.parametrize("packed", [False, True])
def test_activations_of_all_blocks_follow_from_one(tmp_path: Path, packed: bool) -> None:
    model, shape = model_of(tmp_path), Shape(2, 40, packed)
    facts = facts_of(model, Method(), shape)
    adapted = peft.get_peft_model(frozen_module(model, STORED), Method().peft_config(model)).train()
    batch = _random_batch(shape, 512)
    _, everything = saved_bytes(adapted, torch.nn.Identity(), lambda: loss_of(adapted, batch)[0].backward())
    counted = facts.terms(Levers(STORED))["activations"]
    assert counted - facts.block * 0.2 <= everything <= counted  # the first block has no input to go back to


def test_activations_grow_with_the_length(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    short, long = (facts_of(model, Method(), Shape(1, length)) for length in (32, 64))
    assert long.block == pytest.approx(2 * short.block, rel=0.02)
    assert long.logits == 2 * short.logits == 3 * 4 * 64 * 512
    assert trained_parameters(model, Method(8)) == 2 * trained_parameters(model, Method(4))


FACTS = Facts(
    resident=400, weights={DENSE: 540, STORED: 98, DISK: 2}, adapter=20, optimizer=40, block=60, outside=5, inputs=1,
    blocks=30, logits=300, pieces=30, dense=30, working=20,
)  # fmt: skip


def test_without_a_limit_nothing_is_given_up() -> None:
    plan = plan_from(FACTS)
    assert plan.levers == Levers()
    counted = 540 + 20 + 20 + 40 + 30 * 60 + 5 + 30 + 20
    assert plan.total == 400 + counted + round(0.06 * counted)
    assert plan.binding == "activations"
    assert plan.lower
    assert all(total < plan.total for _, total in plan.lower)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3500))
def test_the_choice_fits_and_is_the_quickest_that_does(limit: int) -> None:
    fitting = [each for each in choices(FACTS) if FACTS.total(each) <= limit]
    if not fitting:
        with pytest.raises(BudgetError):
            plan_from(FACTS, limit)
        return
    plan = plan_from(FACTS, limit)
    assert plan.total <= limit
    assert plan.levers.time == min(each.time for each in fitting)
    assert plan.total == sum(plan.terms.values())


def test_every_lever_lowers_its_term() -> None:
    plain, low = FACTS.terms(Levers()), FACTS.terms(Levers(DISK, True, True))
    assert low["frozen weights"] < plain["frozen weights"]
    assert low["activations"] == 65
    assert low["block inputs"] == 3
    assert FACTS.terms(Levers(all_logits=True))["logits"] == 300


def test_refusals_give_the_reason() -> None:
    with pytest.raises(BudgetError, match="before training"):
        plan_from(FACTS, 300)
    with pytest.raises(BudgetError, match="least that is possible"):
        plan_from(FACTS, 450)
    heavy = Facts(**{**FACTS.__dict__, "resident": 10, "weights": {DENSE: 5000, STORED: 5000}})
    with pytest.raises(BudgetError, match="below the weights themselves"):
        plan_from(heavy, 4000)


def test_bases_that_change_the_model_are_taken_only_by_name(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    facts = facts_of(model, Method(), Shape(1, 16))
    assert set(facts.weights) == {DENSE, STORED, DISK}
    assert not any(each.base == STORED for each in choices(facts))  # stored as float32: saves nothing
    allowed = facts_of(model, Method(), Shape(1, 16), ["int4-g32"])
    assert any(each.base == "int4-g32" for each in choices(allowed))
    linears = sum(get("int4-g32").tensor_bytes(model.entries[name].shape) for name in model.architecture.linears())
    assert allowed.weights["int4-g32"] < facts.weights[DENSE]
    assert allowed.weights["int4-g32"] > linears


def test_a_plan_of_a_model_and_its_receipt(tmp_path: Path) -> None:
    plan = plan_memory(model_of(tmp_path), Method(), Shape(1, 24))
    receipt = plan.receipt(plan.total + 1)
    assert receipt["within_plan"] is False
    assert receipt["planned"] == sum(receipt["terms"].values())
    assert plan_memory(model_of(tmp_path), Method(), Shape(1, 24), limit=plan.total * 2).receipt(1)["within_limit"]


def test_an_adapter_of_one_linear_in_the_last_block_can_be_planned(tmp_path: Path) -> None:
    class Last(Method):
        def peft_config(self, model: Model) -> peft.PeftConfig:
            return peft.LoraConfig(r=4, target_modules=["model.layers.3.mlp.down_proj"])

    plan = plan_memory(model_of(tmp_path), Last(), Shape(1, 24))
    assert plan.terms["adapter"] == 4 * 4 * (256 + 64)


def test_the_peak_can_be_counted_again() -> None:
    if not forget_peak():
        pytest.skip("only Linux can forget a peak")
    before = peak_memory()
    block = torch.ones(50 * 2**20 // 4)
    assert math.isclose(float(block[0]), 1.0)
    assert peak_memory() >= before + 40 * 2**20
    del block
    forget_peak()
    assert peak_memory() < resident_memory() + 40 * 2**20
