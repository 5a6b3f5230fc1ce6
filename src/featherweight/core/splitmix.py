"""SplitMix64 as a function of a seed and a place: random numbers that nothing stores and any chunk of which can be had.

The number at place i is `mix(seed + i + 0x9E3779B97F4A7C15)` modulo 2^64: it depends on no generator, no chunk size and
no device. It is a hash of good quality, not a cryptographic one. Arithmetic is on int64, whose bits are those of the
unsigned numbers; only shifts and remainders need care.
"""

from __future__ import annotations

from featherweight.core.lazy import torch

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 1 << 64


def splitmix(seed: int, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """64 random bits for each place from `start` to `stop`, int64 [stop - start]."""
    places = torch.arange(start, stop, dtype=torch.int64, device=device)
    return mixed(places.add_(place_of(seed, 0)))


def place_of(seed: int, place: int) -> int:
    """The number that is mixed for a place, as int64."""
    return signed(seed + place + _GOLDEN)


def mixed(bits: torch.Tensor) -> torch.Tensor:
    """The output function of SplitMix64, in place."""
    bits ^= _shifted(bits, 30)
    bits *= signed(_FIRST)
    bits ^= _shifted(bits, 27)
    bits *= signed(_SECOND)
    bits ^= _shifted(bits, 31)
    return bits


def remainder(bits: torch.Tensor, divisor: int) -> torch.Tensor:
    """The unsigned numbers modulo a divisor below 2^62; int64, from 0 to divisor - 1."""
    signed_remainder = bits % divisor  # of a negative number it lacks the 2^64 that the sign bit stands for
    signed_remainder += (bits < 0) * (_WORD % divisor)
    signed_remainder -= (signed_remainder >= divisor) * divisor
    return signed_remainder


def chosen(bits: torch.Tensor, share: float) -> torch.Tensor:
    """A boolean mask that is true with a probability: 53 of the bits, read as a fraction, lie below it."""
    return _shifted(bits, 11) < int(share * (1 << 53))


def signed(number: int) -> int:
    """The int64 with the bits of an unsigned number modulo 2^64."""
    number %= _WORD
    return number - _WORD if number >= _WORD // 2 else number


def _shifted(bits: torch.Tensor, count: int) -> torch.Tensor:
    """Shifted right with zeros filled in: torch fills in the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
