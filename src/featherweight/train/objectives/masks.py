"""Which positions of a sequence are hidden from the student: blocks or spans at random places, drawn for every row."""

from __future__ import annotations

import torch


def block_masks(
    rows: int, length: int, blocks: int, share: tuple[float, float], context: tuple[float, float], kept: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Multi-block masks: target blocks, and a context block without what they cover (arXiv 2301.08243).

    Args:
        rows: of the batch.
        length: positions.
        blocks: target blocks of a row; they may overlap each other.
        share: least and greatest length of a target block, as a share of the sequence.
        context: the same of the context block.
        kept: share of the sequence that the context keeps at least; target blocks are given up until it does.
        generator: draws lengths and places.

    Returns:
        Targets and context, bool [rows, length] each; they have no position in common, and every row has a target.
    """
    around = _spans(rows, 1, length, context, generator)[:, 0]
    each = _spans(rows, blocks, length, share, generator)
    least = min(int(kept * length), length - 1)
    targets = each[:, 0]
    for number in range(1, blocks):
        more = targets | each[:, number]
        enough = (around & ~more).sum(1, keepdim=True) >= least
        targets = torch.where(enough, more, targets)
    return targets, around & ~targets


def _spans(rows: int, count: int, length: int, share: tuple[float, float], generator: torch.Generator) -> torch.Tensor:
    """Contiguous spans of random length and place, bool [rows, count, length]."""
    drawn = torch.rand(2, rows, count, generator=generator)
    sizes = ((share[0] + (share[1] - share[0]) * drawn[0]) * length).long().clamp(1, length)
    starts = (drawn[1] * (length - sizes + 1)).long()
    places = torch.arange(length)
    return (places >= starts[..., None]) & (places < (starts + sizes)[..., None])


def span_masks(rows: int, length: int, start: float, span: int, generator: torch.Generator) -> torch.Tensor:
    """Every position starts a hidden span with some probability; at least one a row (arXiv 2006.11477).

    Args:
        rows: of the batch.
        length: positions.
        start: probability.
        span: positions of a span; at the end of the sequence it is cut off.
        generator: draws the starts.

    Returns:
        Hidden positions, bool [rows, length].
    """
    starts = torch.rand(rows, length, generator=generator) < start
    starts[torch.arange(rows), torch.randint(length, (rows,), generator=generator)] = True
    before = torch.nn.functional.pad(starts.float(), (span - 1, 0))
    return torch.nn.functional.max_pool1d(before[:, None], span, 1)[:, 0] > 0
