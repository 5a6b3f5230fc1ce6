"""Decisions: what is drawn, what is expected, what settles."""

from __future__ import annotations

import pytest
import torch

from featherweight.train.decisions import Decisions, one_hot
from featherweight.train.space import Space

SPACE = Space({"blocks": (2, 3, 4), "ffn": (64, 128), "format linears": ("int2-g32", "Q8_0")}, {})


def decisions(seed: int = 0) -> Decisions:
    return Decisions(SPACE, torch.Generator().manual_seed(seed))


def test_draws_are_weights_and_repeat_with_the_seed() -> None:
    one, other = decisions(), decisions()
    state = torch.get_rng_state()
    for _ in range(5):
        first, second = one.sample(), other.sample()
        for name, weights in first.items():
            assert torch.equal(weights, second[name])
            assert float(weights.sum()) == pytest.approx(1.0)
            assert (weights >= 0).all()
        assert sorted(first["blocks"].tolist()) == [0, 0, 1]  # half a block is in no candidate
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left as it was


def test_expected_weights_are_the_mean_of_draws() -> None:
    found = decisions()
    found.logits["ffn"] = torch.tensor([-1.0, 2.0])
    found.logits["blocks"] = torch.tensor([0.0, 1.0, -1.0])
    draws = [found.sample() for _ in range(3000)]
    for name, expected in found.probabilities().items():
        torch.testing.assert_close(torch.stack([each[name] for each in draws]).mean(0), expected, atol=0.03, rtol=0)


def test_gradients_reach_every_logit() -> None:
    found = decisions()
    for logits in found.logits.values():
        logits.requires_grad_(True)
    pull = {name: torch.arange(len(each), dtype=torch.float32) for name, each in SPACE.options.items()}
    moved = dict.fromkeys(SPACE.options, 0.0)
    for _ in range(400):
        sum((each * pull[name]).sum() for name, each in found.sample().items()).backward()
    for name, logits in found.logits.items():
        moved[name] = float(logits.grad[-1] - logits.grad[0])
    assert all(each > 0 for each in moved.values())  # more of the last option means more of the objective


def test_settled_decisions_lose_their_weak_options() -> None:
    found = decisions()
    found.logits["ffn"] = torch.tensor([-4.0, 4.0])
    assert found.entropy("ffn") < 0.1
    assert found.entropy("blocks") == pytest.approx(1.0)
    assert found.settle(0.5) == ["ffn"]
    assert found.open == ["blocks", "format linears"]
    assert found.sample()["ffn"].tolist() == [0.0, 1.0]
    assert found.entropy("ffn") == 0.0
    assert found.settle(0.5) == []


def test_a_settled_decision_keeps_all_its_strong_options() -> None:
    found = decisions()
    found.logits["blocks"] = torch.tensor([3.0, 3.0, -5.0])
    assert found.settle(0.7) == ["blocks"]
    assert found.alive["blocks"].tolist() == [True, True, False]
    assert all(found.sample()["blocks"][2] == 0 for _ in range(20))


def test_one_option_for_certain() -> None:
    draw = one_hot(SPACE, {"blocks": 3, "ffn": 64, "format linears": "Q8_0"})
    assert {name: each.tolist() for name, each in draw.items()} == {
        "blocks": [0, 1, 0], "ffn": [1, 0], "format linears": [0, 1],
    }  # fmt: skip


def test_log_probability_is_that_of_independent_decisions() -> None:
    found = decisions()
    total = sum(torch.tensor(found.log_probability(choice)).exp() for choice in SPACE.choices())
    assert float(total) == pytest.approx(1.0)
