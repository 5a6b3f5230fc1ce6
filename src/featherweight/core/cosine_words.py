"""What the cosines of deltas mean for whoever merges them, in sentences.

Below 0.01 a projection changes next to nothing and a delta can be subtracted again; above 0.1 what is subtracted has
already gone into how the others were projected, so that only merging anew takes it out.
"""

from __future__ import annotations

import math

from featherweight.core.gram import Grams, Pair

NO_OP, TOO_MUCH = 0.01, 0.1
_SHOWN = 10


def sentences(grams: Grams) -> list[str]:
    """The cosines of all pairs, the largest ones where they are many, and what follows from them."""
    pairs = sorted(grams.pairs(), key=lambda pair: -_size(pair))
    said = [_pair(pair) for pair in pairs[:_SHOWN]]
    if len(pairs) > _SHOWN:
        said.append(f"{len(pairs) - _SHOWN} further pairs have smaller cosines")
    still = [name for name, norm in zip(grams.names, grams.norms, strict=True) if norm == 0]
    said += [f"{name} changes nothing" for name in still]
    return [*said, *([meaning(grams)] if pairs else [])]


def meaning(grams: Grams) -> str:
    """Whether projecting does anything, and whether subtracting is enough to take a delta out."""
    largest = largest_cosine(grams)
    if largest < NO_OP:
        return (
            f"no cosine is above {NO_OP:g}: orthogonal-deltas is a no-op, the same as task-arithmetic up to noise, and "
            "subtraction takes a model out again"
        )
    if largest > TOO_MUCH:
        return (
            f"a cosine is above {TOO_MUCH:g}: subtraction is not enough to take a model out again, use unmerge --mode "
            "rebuild"
        )
    return f"cosines lie between {NO_OP:g} and {TOO_MUCH:g}: projecting changes little, rebuild is the exact unmerge"


def largest_cosine(grams: Grams) -> float:
    """Over all weights, of any pair; 0 for a single delta."""
    return max((_size(pair) for pair in grams.pairs()), default=0.0)


def _size(pair: Pair) -> float:
    return 0.0 if math.isnan(pair.cosine) else abs(pair.cosine)


def _pair(pair: Pair) -> str:
    if math.isnan(pair.cosine):
        return f"cosine of {pair.one} and {pair.other}: none, one of them changes nothing"
    low, _, high = pair.quantiles or (math.nan,) * 3
    return f"cosine of {pair.one} and {pair.other}: {pair.cosine:+.4f}, by tensor {low:+.3f} to {high:+.3f}"
