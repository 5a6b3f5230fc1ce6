"""Parts by hash: every text in one part, whatever the order it came in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.shares import divided

SHARES = {"large": 0.6, "small": 0.2, "other": 0.2}


@given(st.lists(st.text(max_size=3)), st.integers(0, 3))
def test_every_text_is_in_one_part_whatever_the_order(texts: list[str], seed: int) -> None:
    parts = divided(texts, SHARES, seed)
    assert sorted(text for part in parts.values() for text in part) == sorted(set(texts))
    assert parts == divided(reversed(texts), SHARES, seed)
    assert len(parts["large"]) == round(0.6 * len(set(texts)))
