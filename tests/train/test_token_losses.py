"""Losses on token states: zero where they must be, blind to padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.train.token_losses import masked_cosine, masked_mse, mean_state, order_consistency, shuffled_words

LENGTHS = [5, 1, 3]
VALID = torch.tensor([[place < length for place in range(5)] for length in LENGTHS])


def states(seed: int) -> torch.Tensor:
    return torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(seed))


def test_a_student_equal_to_its_teacher_has_no_loss() -> None:
    same = states(0)
    assert masked_mse(same, same.clone(), VALID) == 0
    assert masked_cosine(same, same.clone(), VALID) == pytest.approx(0, abs=1e-6)


def test_against_a_loop() -> None:
    student, teacher = states(0), states(1)
    squares, cosines = [], []
    for row, length in enumerate(LENGTHS):
        one, other = student[row, :length], teacher[row, :length]
        squares.append(((one - other) ** 2).sum() / (length * 8))
        cosines.append((1 - torch.cosine_similarity(one, other, dim=-1)).sum() / length)
    assert masked_mse(student, teacher, VALID) == pytest.approx(float(sum(squares) / 3))
    assert masked_cosine(student, teacher, VALID) == pytest.approx(float(sum(cosines) / 3))


@pytest.mark.parametrize("junk", [1e6, float("nan"), float("inf")])
def test_what_stands_at_padding_changes_neither_loss_nor_gradient(junk: float) -> None:
    teacher = states(1)

    def losses_and_gradient(at_padding: float) -> tuple[torch.Tensor, torch.Tensor]:
        filled = torch.where(VALID[..., None], teacher, at_padding)
        student = torch.where(VALID[..., None], states(0), 3.0).requires_grad_(True)
        total = masked_mse(student, filled, VALID) + mean_state(student, VALID).sum()
        if junk != float("inf"):  # the cosine of an infinite vector has no gradient; it is masked going forward
            total = total + masked_cosine(student, filled.nan_to_num(), VALID)
        total.backward()
        return total.detach(), student.grad

    clean, dirty = losses_and_gradient(0.0), losses_and_gradient(junk)
    assert torch.equal(clean[0], dirty[0])
    assert torch.equal(clean[1][VALID], dirty[1][VALID])


def test_consistency_is_zero_for_equal_means_and_counts_unchanged_rows_as_zero() -> None:
    some, mask = states(0), VALID
    assert order_consistency(some, mask, some.clone(), mask, 3) == 0
    apart = order_consistency(some, mask, states(1), mask, 3)
    assert order_consistency(some, mask, states(1), mask, 6) == pytest.approx(float(apart) / 2)


@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=8), st.integers(0, 99))
def test_shuffling_keeps_the_words(words: list[str], seed: int) -> None:
    shuffled = shuffled_words(" ".join(words), torch.Generator().manual_seed(seed))
    assert sorted(shuffled.split()) == sorted(words)
    if len(words) < 2:
        assert shuffled == " ".join(words)
