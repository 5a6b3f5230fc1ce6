"""Seeds that depend on what is asked and not on when: a resumed run draws what an uninterrupted one would have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from featherweight.core.cases import Message


def seed_of(seed: int, conversations: Sequence[Sequence[Message]]) -> int:
    """A seed below 2^31 for conversations that are drawn together."""
    asked = [[dict(message) for message in conversation] for conversation in conversations]
    digest = hashlib.sha256(json.dumps([seed, asked], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
