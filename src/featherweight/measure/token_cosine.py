"""How close one encoder's token states are to another's, on valid tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.lazy import torch

_RESAMPLES = 2000


@dataclass(frozen=True)
class TokenCosine:
    """Closeness of token states.

    Attributes:
        cosine: mean over all valid tokens.
        interval: 95 % bootstrap interval of it over prompts.
        centred: the same after the reference's mean state is taken off both: a large common part flatters `cosine`.
        worst: the mean over the worst twentieth of the prompts.
        prompts, tokens: how much was measured.
    """

    cosine: float
    interval: tuple[float, float]
    centred: float
    worst: float
    prompts: int
    tokens: int


def token_cosine(states: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> TokenCosine | None:
    """Compares states with a reference, prompt by prompt; None without prompts.

    Args:
        states: [tokens, width] of each prompt.
        reference: the same shapes.
    """
    if not states:
        return None
    by_prompt = [torch.cosine_similarity(one, other, dim=-1) for one, other in zip(states, reference, strict=True)]
    sums = torch.tensor([float(each.double().sum()) for each in by_prompt], dtype=torch.float64)
    counts = torch.tensor([len(each) for each in by_prompt], dtype=torch.float64)
    mean = torch.cat(list(reference)).mean(0)
    centred = torch.cosine_similarity(torch.cat(list(states)) - mean, torch.cat(list(reference)) - mean, dim=-1)
    picks = torch.randint(len(sums), (_RESAMPLES, len(sums)), generator=torch.Generator().manual_seed(0))
    bounds = (sums[picks].sum(1) / counts[picks].sum(1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    worst = (sums / counts).sort().values[: max(len(sums) // 20, 1)]
    return TokenCosine(
        float(sums.sum() / counts.sum()), (float(bounds[0]), float(bounds[1])), float(centred.double().mean()),
        float(worst.mean()), len(sums), int(counts.sum()),
    )  # fmt: skip
