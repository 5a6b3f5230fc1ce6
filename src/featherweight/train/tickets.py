"""Lottery tickets for several subsets of the data, on any torch module: extraction, joint retraining, fair control.

Extraction is iterative magnitude pruning with rewinding, once for each subset: train under the present mask, drop the
smallest weights left, go back to the start. Joint retraining moves one set of weights under all masks in turn
(`train.masked`). Source: Routing the Lottery, arXiv 2601.22141, whose loop condition ("while density < s") is read as
"until the sparsity is reached". The source drops a fixed number of weights a round; over which weights the smallest
are looked for it does not say: `compare`.

A module enters as its parameters by name and a loss that takes them (`torch.func.functional_call`); what the subsets
are, and how a subset is recognised later, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from featherweight.core.lazy import torch
from featherweight.core.sparsity import lowest
from featherweight.train.loop import Schedule
from featherweight.train.masked import Loss, Masks, OptimizerOf, Weights, adam, train_masked

Compare = Literal["row", "matrix", "model"]

Prune = Callable[[int, Masks, float], Masks]
"""A subset's next mask, from its number, its present mask and the sparsity to reach."""


def full_masks(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Masks that keep everything, by the shapes of the weights."""
    return {name: torch.ones(tuple(shape), dtype=torch.bool) for name, shape in shapes.items()}


def shrink(masks: Masks, scores: Weights, sparsity: float, compare: Compare = "model") -> dict[str, torch.Tensor]:
    """Masks of exactly this sparsity that keep the highest scores among the weights kept so far; nothing comes back.

    Args:
        masks: the present ones.
        scores: one a weight, of any kind that can be compared.
        sparsity: share of zeros, over all weights, of each matrix or of each row, rounded to whole weights.
        compare: among which weights the lowest are looked for.
    """
    ranked = {name: torch.where(mask, scores[name].float().cpu(), -torch.inf) for name, mask in masks.items()}
    if compare == "row":
        return {name: ~lowest(each, round(sparsity * each.shape[1])) for name, each in ranked.items()}
    if compare == "matrix":
        return {name: _whole(each, sparsity).reshape(each.shape) for name, each in ranked.items()}
    together = _whole(torch.cat([each.flatten() for each in ranked.values()]), sparsity)
    parts = together.split([each.numel() for each in ranked.values()])
    return {name: part.reshape(masks[name].shape) for name, part in zip(ranked, parts, strict=True)}


def _whole(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    flat = scores.reshape(1, -1)
    return ~lowest(flat, round(sparsity * flat.shape[1]))[0]


def prune_in_rounds(
    subsets: int,
    full: Masks,
    prune: Prune,
    sparsity: float,
    rounds: int,
    broken: Callable[[list[Masks]], bool] | None = None,
) -> list[Masks]:
    """Masks of all subsets, shrunk in turn by equal numbers of weights a round until the sparsity is reached.

    Args:
        subsets: how many.
        full: the mask that all of them start from.
        prune: one subset's pruning of one round.
        sparsity: to be reached in the last round.
        rounds: how many.
        broken: looks at the masks of every round; True ends the pruning, and those of the round before are the result.
    """
    masks: list[Masks] = [full] * subsets
    for done in range(1, rounds + 1):
        found = [prune(subset, masks[subset], sparsity * done / rounds) for subset in range(subsets)]
        if broken is not None and broken(found):
            break
        masks = found
    return masks


def magnitude_pruning(
    start: Weights,
    losses: Sequence[Loss],
    schedule: Schedule,
    compare: Compare = "model",
    optimizer: OptimizerOf = adam,
    clip: float | None = None,
) -> Prune:
    """Pruning by the size of the weights after training on one subset, always from `start`.

    Args:
        start: the weights to rewind to; every training starts from a copy.
        losses: one for each subset.
        schedule: of the training of one round.
        compare: see `shrink`.
        optimizer: makes the optimizer of each training.
        clip: greatest norm of a gradient; None = any.
    """

    def prune(subset: int, masks: Masks, sparsity: float) -> Masks:
        trained = train_masked(start, [masks], [losses[subset]], schedule, optimizer, "finding tickets", clip=clip)
        return shrink(masks, {name: trained[name].abs() for name in masks}, sparsity, compare)

    return prune


def equal_storage(union: int, weights: int, subsets: int, bits: float) -> int:
    """Weights that one mask may keep in the bits that `subsets` masks and the union of their weights take.

    Every mask costs one bit a weight, the single one too. At most all weights.

    Args:
        union: weights that at least one of the masks keeps.
        weights: weights that the masks speak of.
        subsets: number of masks.
        bits: of one stored weight.
    """
    return min(union + int((subsets - 1) * weights / bits), weights)
