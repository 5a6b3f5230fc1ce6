"""Nested ranks: which prefixes of an adapter's components are adapters of their own, and what each component counts.

Component i of an adapter of rank R is row i of A and column i of B. For a set S of ranks with scales s_r, the sum of
the nested outputs, sum over r in S of s_r B[:, :r] A[:r] x, equals B (P * A x) with

    P_i = sum of s_r over the r in S that are at least i                                       (arXiv 2605.07850)

Numbers only, no tensors: P is made again from (S, scaling) wherever it is needed and is stored nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from featherweight.core.errors import RecipeError

Scaling = Literal["none", "rank", "sqrt"]
SCALINGS: tuple[str, ...] = get_args(Scaling)


def powers_of_two(rank: int) -> tuple[int, ...]:
    """1, 2, 4, … up to `rank`, and `rank` itself where it is no power of two."""
    return (*(2**power for power in range(rank.bit_length()) if 2**power < rank), rank)


def ranks_within(ranks: Sequence[int], rank: int) -> tuple[int, ...]:
    """The ranks of a set that a layer of this rank can serve, its own among them."""
    return (*(each for each in sorted(set(ranks)) if each < rank), rank)


def check_ranks(ranks: Sequence[int], rank: int) -> tuple[int, ...]:
    """The ranks in order.

    Raises:
        RecipeError: the set is empty, or one of them is not between 1 and `rank`.
    """
    wrong = [each for each in ranks if not 1 <= each <= rank]
    if wrong or not ranks:
        raise RecipeError(
            f"nested ranks {list(ranks)}", f"must be between 1 and the adapter's rank, {rank}",
            f"use for example {', '.join(map(str, powers_of_two(rank)))}",
        )  # fmt: skip
    return tuple(sorted(set(ranks)))


def scale(rank: int, scaling: Scaling) -> float:
    """What the output of the first `rank` components is multiplied by: 1, 1/rank or 1/sqrt(rank)."""
    return {"none": 1.0, "rank": 1 / rank, "sqrt": 1 / math.sqrt(rank)}[scaling]


def component_weights(rank: int, ranks: Sequence[int], scaling: Scaling, divide: bool = False) -> list[float]:
    """P of an adapter of this rank, [rank].

    Args:
        rank: number of components, R.
        ranks: S; what exceeds `rank` counts nowhere.
        scaling: s_r.
        divide: whether P is divided by the number of ranks, so that the sum of outputs becomes their mean.
    """
    within = {each for each in ranks if each <= rank}
    weights, total = [0.0] * rank, 0.0
    for component in range(rank, 0, -1):
        total += scale(component, scaling) if component in within else 0.0
        weights[component - 1] = total / len(within) if divide else total
    return weights
