"""Tags to domains, and masks to bits and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.errors import DataError
from featherweight.models.bitmasks import pack, packed_bytes, unpack
from featherweight.models.router import Router

ROUTER = Router(("prose", "code", "chat"), "code")


def test_tags_pick_domains_and_no_tag_picks_the_fallback() -> None:
    assert [ROUTER.pick(tag) for tag in ("prose", "code", "chat", None)] == [0, 1, 2, 1]
    assert ROUTER.pick_all(["chat", None, "prose"]) == (2, 1, 0)
    assert ROUTER.pick_all("chat") == (2,)
    assert ROUTER.pick_all(None) == (1,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ROUTER.pick("cod"), "domain 'cod': .* did you mean 'code'"),
        (lambda: ROUTER.pick_all(["prose", "law"]), "domain 'law': .* use one of prose, code, chat"),
        (lambda: ROUTER.pick_all([]), "tags: are none"),
        (lambda: Router((), "any"), r"domains \[\]"),
        (lambda: Router(("a", "a"), "a"), "not all different"),
        (lambda: Router(("a", "b"), "c"), "domain 'c'"),
    ],
)
def test_what_is_refused(call: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()  # type: ignore[operator]


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 11), st.integers(0, 100))
def test_packing_and_unpacking_gives_the_masks_back(masks: int, rows: int, columns: int, seed: int) -> None:
    given_masks = torch.rand(masks, rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(given_masks)
    assert packed.dtype == torch.uint8
    assert packed.shape == (masks, packed_bytes((rows, columns)))
    assert packed.shape[1] == -(-rows * columns // 8)
    for place in range(masks):
        assert torch.equal(unpack(packed[place], (rows, columns)), given_masks[place])
    expected = np.packbits(given_masks.reshape(masks, -1).numpy(), axis=1, bitorder="little")
    assert np.array_equal(packed.numpy(), expected)
