"""Division of texts into parts by their hash: chance that a seed decides, and neither the machine nor the order given.

It knows texts only; what the parts are for is the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping


def hash_rank(text: str, seed: int) -> str:
    """What texts are sorted by for a random order that depends on the text and the seed alone."""
    return hashlib.sha256(f"{seed}/{text}".encode()).hexdigest()


def divided(texts: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """The different texts in parts of the given shares: no text is in two of them.

    Args:
        texts: repetitions count once.
        shares: of each part by its name; they add up to 1.
        seed: decides which text is in which part.
    """
    order = sorted(set(texts), key=lambda text: hash_rank(text, seed))
    parts: dict[str, list[str]] = {}
    edge = 0.0
    for name, share in shares.items():
        parts[name] = order[round(edge * len(order)) : round((edge + share) * len(order))]
        edge += share
    return parts
