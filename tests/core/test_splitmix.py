"""SplitMix64 against Python's own integers and the published test vector."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.core.splitmix import chosen, remainder, signed, splitmix

WORD = 1 << 64


def reference(seed: int, place: int) -> int:
    z = (seed + place + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def test_known_answers() -> None:
    assert remainder(splitmix(42, 0, 8), 1000).tolist() == [413, 160, 331, 326, 343, 765, 267, 592]


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**62), st.integers(1, 2**61))
def test_every_seed_place_and_divisor(seed: int, place: int, divisor: int) -> None:
    bits = splitmix(seed, place, place + 3)
    expected = [reference(seed, place + step) for step in range(3)]
    assert [each % WORD for each in bits.tolist()] == expected
    assert remainder(bits, divisor).tolist() == [each % divisor for each in expected]


@given(st.integers(0, 2**64 - 1))
def test_signed_keeps_the_bits(number: int) -> None:
    assert -(2**63) <= signed(number) < 2**63
    assert signed(number) % WORD == number


@given(st.integers(0, 2**62), st.sampled_from([0.0, 0.05, 0.5, 0.999]))
def test_chosen_share(seed: int, share: float) -> None:
    found = chosen(splitmix(seed, 0, 20_000), share).double().mean().item()
    assert abs(found - share) < 0.02


def test_no_generator_is_read_or_moved() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = splitmix(7, 0, 100)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(splitmix(7, 0, 100), first)
