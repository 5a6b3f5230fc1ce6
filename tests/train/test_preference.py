"""DPO: its first value, what counts in it, and the direction in which it pulls."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from featherweight.core.source import open_folder
from featherweight.train.preference import (
    Pair,
    PreferenceLoss,
    answer_log_probabilities,
    answered,
    dpo_loss,
    log_probabilities,
)

PAIRS = [
    Pair((5, 6, 7), (8, 9), (10,)),
    Pair((11, 12), (13,), (14, 15, 16)),
    Pair((17, 18, 19, 20), (21, 22), (23, 24)),
]


@pytest.fixture
def module(tiny: Path) -> Any:
    return open_folder(tiny).module()


def weights_of(module: Any) -> dict[str, torch.Tensor]:
    return {
        name: each.detach().clone().requires_grad_()
        for name, each in module.named_parameters()
        if name.endswith("proj.weight")
    }


def gradient(module: Any, pairs: list[Pair]) -> torch.Tensor:
    weights = weights_of(module)
    PreferenceLoss(module, pairs, 0.1)(weights, range(len(pairs))).backward()
    return torch.cat([each.grad.reshape(-1) for each in weights.values() if each.grad is not None])


def test_the_first_loss_is_exactly_the_logarithm_of_two(module: Any) -> None:
    first = PreferenceLoss(module, PAIRS, 0.1)(weights_of(module), [2, 0])
    assert float(first) == float(torch.tensor(2.0).log())
    same = torch.tensor([[-3.0, -1.0], [-2.0, -7.0]])
    assert float(dpo_loss(same, same, 0.5)) == pytest.approx(math.log(2), abs=1e-7)


def test_the_loss_is_the_formula() -> None:
    policy, reference = torch.tensor([[-1.0], [-4.0]]), torch.tensor([[-2.0], [-3.0]])
    expected = -math.log(1 / (1 + math.exp(-0.3 * ((-1 + 2) - (-4 + 3)))))
    assert float(dpo_loss(policy, reference, 0.3)) == pytest.approx(expected)


def test_a_reference_is_computed_once(module: Any) -> None:
    loss, weights = PreferenceLoss(module, PAIRS, 0.1), weights_of(module)
    first = loss(weights, [0, 1, 2])
    for name in weights:
        module.get_parameter(name).data.zero_()
    assert torch.equal(loss(weights, [0, 1, 2]), first)


def test_only_the_tokens_of_an_answer_count() -> None:
    batch = answered([((1, 2, 3), (4, 5)), ((6,), (7,))])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch.present.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = answer_log_probabilities(logits, batch)
    every = logits.log_softmax(-1)
    torch.testing.assert_close(found, torch.stack([every[0, 2, 4] + every[0, 3, 5], every[1, 0, 7]]))
    found.sum().backward()
    touched = logits.grad.abs().sum(-1) > 0  # type: ignore[union-attr]
    assert touched.tolist() == [[False, False, True, True, False], [True, False, False, False, False]]


def test_padding_changes_nothing(module: Any) -> None:
    rows = [((5, 6, 7), (8, 9)), ((11, 12), (13, 14, 15, 16, 17, 18))]
    together = log_probabilities(module, {}, answered(rows))
    alone = torch.cat([log_probabilities(module, {}, answered([row])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_swapped_answers_turn_the_first_gradient_round(module: Any) -> None:
    forward = gradient(module, PAIRS)
    backward = gradient(module, [Pair(each.prompt, each.rejected, each.chosen) for each in PAIRS])
    assert forward.abs().max() > 0
    torch.testing.assert_close(forward, -backward, rtol=1e-4, atol=1e-6 * float(forward.abs().max()))


def test_equal_answers_have_no_gradient(module: Any) -> None:
    equal = gradient(module, [Pair(each.prompt, each.chosen, each.chosen) for each in PAIRS])
    assert equal.abs().max() < 1e-6 * gradient(module, PAIRS).abs().max()


def test_a_step_downhill_prefers_the_chosen_answers(module: Any) -> None:
    weights = weights_of(module)
    loss = PreferenceLoss(module, PAIRS, 0.1)
    first = loss(weights, [0, 1, 2])
    first.backward()
    moved = {name: (each - 1e-3 * each.grad).detach() for name, each in weights.items()}  # type: ignore[operator]
    assert loss(moved, [0, 1, 2]) < first
