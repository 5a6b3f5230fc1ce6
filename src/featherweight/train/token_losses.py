"""Losses that pull one text encoder's token states to another's, blind to padding.

With s and t the states of student and teacher, [rows, length, width], and valid tokens marked: the mean over rows of
sum_valid |s - t|^2 / (n_valid width), of sum_valid (1 - cos(s, t)) / n_valid, and of |mean_valid s(x) -
mean_valid s(x')|^2 / width with the words of x' in another order. arXiv 2602.12173.
"""

from __future__ import annotations

from featherweight.core.lazy import torch


def masked_mse(student: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the squared error of a valid token's numbers.

    Args:
        student: [rows, length, width].
        teacher: the same shape.
        valid: [rows, length], true where a token counts.
    """
    return _mean_of_rows(((student - teacher) ** 2).mean(-1), valid)


def masked_cosine(student: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over rows of a valid token's 1 - cosine; arguments as of `masked_mse`."""
    return _mean_of_rows(1 - torch.nn.functional.cosine_similarity(student, teacher, dim=-1), valid)


def order_consistency(
    states: torch.Tensor, valid: torch.Tensor, shuffled: torch.Tensor, shuffled_valid: torch.Tensor, rows: int
) -> torch.Tensor:
    """How much the mean state moves when words change places.

    Args:
        states: of the prompts whose words changed places, [changed, length, width].
        valid: [changed, length].
        shuffled: of the same prompts with their words in another order.
        shuffled_valid: its mask.
        rows: of the whole batch; prompts that stayed as they were count as zero.
    """
    moved = mean_state(states, valid) - mean_state(shuffled, shuffled_valid)
    return (moved**2).mean(-1).sum() / rows


def mean_state(states: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean over valid tokens, [rows, width]."""
    kept = torch.where(valid[..., None].bool(), states, 0.0)
    return kept.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)


def _mean_of_rows(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    # `where` and not a product: whatever stands at padding, NaN included, must not come through.
    kept = torch.where(valid.bool(), values, 0.0)
    return (kept.sum(1) / valid.sum(1).clamp(min=1)).mean()


def shuffled_words(prompt: str, generator: torch.Generator) -> str:
    """The words of a prompt in a random order."""
    words = prompt.split()
    return " ".join(words[place] for place in torch.randperm(len(words), generator=generator).tolist())
