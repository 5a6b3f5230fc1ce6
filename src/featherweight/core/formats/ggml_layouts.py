"""Where each ggml block type keeps its codes, scales and minimums: bytes <-> codes, exactly.

One class a family of layouts. `codes` are unsigned integers [blocks, block]; `scale` and `minimum` are float32
[blocks, groups] with value = scale * level(code) + minimum. Little-endian throughout, as in the GGUF file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from featherweight.core.lazy import np

IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The float16 at byte `at` of every block, as float32 [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(data: np.ndarray, run: int) -> np.ndarray:
    """Codes of runs of `run` bytes: all low nibbles of a run, then all its high ones."""
    runs = data.reshape(len(data), -1, run)
    return np.concatenate([runs & 15, runs >> 4], axis=-1).reshape(len(data), -1)


def _to_nibbles(codes: np.ndarray, run: int) -> np.ndarray:
    pairs = codes.reshape(len(codes), -1, 2, run)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(codes), -1)


def _planes(data: np.ndarray, run: int, bits: int) -> np.ndarray:
    """Codes of `bits` bits: in each run of bytes, plane after plane of 8/bits planes."""
    runs = data.reshape(len(data), -1, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    return (runs >> shifts & ((1 << bits) - 1)).reshape(len(data), -1)


def _to_planes(codes: np.ndarray, run: int, bits: int) -> np.ndarray:
    planes = codes.reshape(len(codes), -1, 8 // bits, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    return np.bitwise_or.reduce(planes << shifts, axis=2).reshape(len(codes), -1)


class Layout(ABC):
    """The block layout of one ggml type.

    Attributes:
        block: weights a block; `group`: weights that share a scale inside it.
        low, high: the codes a quantizer may write.
    """

    block = 32
    group = 32
    low = 0
    high = 15
    levels: tuple[int, ...] | None = None

    @abstractmethod
    def codes(self, blocks: np.ndarray) -> np.ndarray:
        """uint8 [blocks, block] from uint8 [blocks, bytes a block]."""

    @abstractmethod
    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        """Put codes into `blocks` in place; scales stay."""

    @abstractmethod
    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale and minimum, float32 [blocks, groups a block] each."""


class Nibble32(Layout):
    """Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL: 32 codes of 4 bits, the fifth bits of the five-bit types in one word."""

    def __init__(self, bits: int, minimum: bool, levels: tuple[int, ...] | None = None) -> None:
        self.bits, self.minimum, self.levels = bits, minimum, levels
        self.high = (1 << bits) - 1
        self.fifth = 4 if minimum else 2
        self.start = self.fifth + (4 if bits == 5 else 0)

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        codes = _nibbles(blocks[:, self.start :], 16)
        if self.bits == 5:
            word = blocks[:, self.fifth : self.fifth + 4]
            codes = codes | np.unpackbits(word, axis=1, bitorder="little") << 4
        return codes

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, self.start :] = _to_nibbles(codes & 15, 16)
        if self.bits == 5:
            blocks[:, self.fifth : self.fifth + 4] = np.packbits(codes >> 4, axis=1, bitorder="little")

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = _half(blocks, 0)
        if self.minimum:
            return scale, _half(blocks, 2)
        middle = 0 if self.levels else 1 << (self.bits - 1)
        return scale, -middle * scale


class Byte32(Layout):
    """Q8_0: 32 signed bytes; codes are shifted by 128 to be unsigned, and -128 is left unused as ggml does."""

    low, high = 1, 255

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        return blocks[:, 2:] ^ 128

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, 2:] = codes ^ 128

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = _half(blocks, 0)
        return scale, -128 * scale


def _six_bit_pairs(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight 6-bit scales and eight 6-bit minimums of Q4_K and Q5_K from their 12 bytes."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([low & 63, high & 15 | (low >> 6) << 4], axis=1)
    minimum = np.concatenate([middle & 63, high >> 4 | (middle >> 6) << 4], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


class K45(Layout):
    """Q4_K and Q5_K: 256 codes, eight groups of 32, each with a 6-bit scale and a 6-bit minimum."""

    block, group = 256, 32

    def __init__(self, bits: int) -> None:
        self.bits, self.high = bits, (1 << bits) - 1
        self.start = 16 if bits == 4 else 48

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        codes = _nibbles(blocks[:, self.start :], 32)
        return codes if self.bits == 4 else codes | _planes(blocks[:, 16:48], 32, 1) << 4

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, self.start :] = _to_nibbles(codes & 15, 32)
        if self.bits == 5:
            blocks[:, 16:48] = _to_planes(codes >> 4, 32, 1)

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale, minimum = _six_bit_pairs(blocks[:, 4:16])
        return _half(blocks, 0) * scale, -_half(blocks, 2) * minimum


class K6(Layout):
    """Q6_K: 256 codes of 4 + 2 bits, sixteen groups of 16 with a signed 8-bit scale."""

    block, group, high = 256, 16, 63

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        return _nibbles(blocks[:, :128], 64) | _planes(blocks[:, 128:192], 32, 2) << 4

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, :128] = _to_nibbles(codes & 15, 64)
        blocks[:, 128:192] = _to_planes(codes >> 4, 32, 2)

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
        return scale, -32 * scale


class K3(Layout):
    """Q3_K: 256 codes of 2 + 1 bits, sixteen groups of 16 with a 6-bit signed scale."""

    block, group, high = 256, 16, 7

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        return _planes(blocks[:, 32:96], 32, 2) | _planes(blocks[:, :32], 32, 1) << 2

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, 32:96] = _to_planes(codes & 3, 32, 2)
        blocks[:, :32] = _to_planes(codes >> 2, 32, 1)

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = _nibbles(blocks[:, 96:104], 8)
        high = _planes(blocks[:, 104:108], 4, 2)
        scale = _half(blocks, 108) * ((low | high << 4).astype(np.int16) - 32).astype(np.float32)
        return scale, -4 * scale


class K2(Layout):
    """Q2_K: 256 codes of 2 bits, sixteen groups of 16 with a 4-bit scale and a 4-bit minimum."""

    block, group, high = 256, 16, 3

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        return _planes(blocks[:, 16:80], 32, 2)

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, 16:80] = _to_planes(codes, 32, 2)

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pair = blocks[:, :16]
        return _half(blocks, 80) * (pair & 15), -_half(blocks, 82) * (pair >> 4)


class IQ4XS(Layout):
    """IQ4_XS: 256 codes into IQ4_NL's code book, eight groups of 32 with a 6-bit signed scale."""

    block, levels = 256, IQ4_LEVELS

    def codes(self, blocks: np.ndarray) -> np.ndarray:
        return _nibbles(blocks[:, 8:], 16)

    def write(self, blocks: np.ndarray, codes: np.ndarray) -> None:
        blocks[:, 8:] = _to_nibbles(codes, 16)

    def scales(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
        word = blocks[:, 2:4].copy().view(np.uint16)
        high = (word >> np.arange(0, 16, 2, dtype=np.uint16) & 3).astype(np.uint8)
        scale = _half(blocks, 0) * ((low | high << 4).astype(np.int16) - 32).astype(np.float32)
        return scale, np.zeros_like(scale)


LAYOUTS: dict[str, Layout] = {
    "Q4_0": Nibble32(4, minimum=False),
    "Q4_1": Nibble32(4, minimum=True),
    "Q5_0": Nibble32(5, minimum=False),
    "Q5_1": Nibble32(5, minimum=True),
    "Q8_0": Byte32(),
    "IQ4_NL": Nibble32(4, minimum=False, levels=IQ4_LEVELS),
    "IQ4_XS": IQ4XS(),
    "Q2_K": K2(),
    "Q3_K": K3(),
    "Q4_K": K45(4),
    "Q5_K": K45(5),
    "Q6_K": K6(),
}
