"""compressed-tensors' packed integers: int2 ... int8, groups of 32/64/128 or whole rows, symmetric or asymmetric.

What Hugging Face and vLLM load as "pack-quantized": codes in int32 words, one bf16 scale a group and, where
asymmetric, one zero point a group. Scales are fitted after rounding to bf16, so nothing is lost afterwards.
"""

from __future__ import annotations

import math
import re

from featherweight.core.errors import FormatError
from featherweight.core.formats.base import Format, Grid, Packed
from featherweight.core.lazy import torch
from featherweight.core.shards import DTYPE_BYTES

NAME = re.compile(r"int([2-8])-(?:g(\d+)|channel)(-asym)?")

# Shrinking the range below the extremes trades clipping a few weights for finer steps on all others.
_SHRINK_STEPS = 16
_SHRINK_TO = 0.6
_AT_ONCE = 1 << 18  # weights whose intermediate values are in memory together


def _few_rows(tensor: torch.Tensor, columns: int) -> tuple[torch.Tensor, ...]:
    """A tensor cut along its rows, so that what is computed of a part of `columns` columns stays small."""
    return tensor.split(max(1, _AT_ONCE // columns))


class PackedInteger(Format):
    """`bits`-bit integers with one scale a group of columns.

    Names: "int4-g64" (symmetric), "int4-g64-asym", "int8-channel" (one scale a row).
    """

    runtime = "compressed-tensors"

    def __init__(self, name: str) -> None:
        match = NAME.fullmatch(name)
        if match is None:
            raise FormatError(name, "is no compressed-tensors format", "write for example int4-g64 or int4-g128-asym")
        self.name = name
        self.bits = int(match[1])
        self.channelwise = match[2] is None
        self.group = 1 if self.channelwise else int(match[2])
        self.symmetric = match[3] is None
        if self.group < 8 and not self.channelwise:
            raise FormatError(name, "groups below 8 columns cost more than they save", "use g32, g64 or g128")

    def _groups(self, columns: int) -> int:
        return 1 if self.channelwise else columns // self.group

    def row_bits(self, columns: int) -> float:
        words = -(-columns * self.bits // 32) * 32
        return words + self._groups(columns) * (16 if self.symmetric else 16 + self.bits)

    def part_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """safetensors type and shape of each stored part of a [rows, columns] matrix."""
        rows, columns = shape
        groups = self._groups(columns)
        parts: dict[str, tuple[str, tuple[int, ...]]] = {
            "weight_packed": ("I32", (rows, -(-columns * self.bits // 32))),
            "weight_scale": ("BF16", (rows, groups)),
            "weight_shape": ("I64", (2,)),
        }
        if not self.symmetric:
            parts["weight_zero_point"] = ("I32", (-(-rows * self.bits // 32), groups))
        return parts

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        return sum(DTYPE_BYTES[dtype] * math.prod(part) for dtype, part in self.part_shapes(shape).values())

    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed:
        rows, columns = weight.shape
        groups = self._groups(columns)
        weights = None if importance is None else importance.float().reshape(1, groups, -1)
        fitted = [
            self._fit_rows(part.float().reshape(len(part), groups, -1), weights) for part in _few_rows(weight, columns)
        ]
        codes, scale, zero = (torch.cat(each) for each in zip(*fitted, strict=True))
        return self._pack(codes.reshape(rows, columns), scale, zero)

    def _fit_rows(
        self, blocks: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale, zero = self._search(blocks, weights)
        return self._codes(blocks, scale, zero).to(torch.int8), scale, zero

    def _search(self, blocks: torch.Tensor, weights: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (bf16 values) and zero point [rows, groups] of least squared error among shrunken ranges."""
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        best = torch.full_like(low, torch.inf)
        scale, zero = torch.ones_like(low), torch.zeros_like(low)
        work = torch.empty_like(blocks)
        for step in range(_SHRINK_STEPS):
            shrink = 1 - (1 - _SHRINK_TO) * step / _SHRINK_STEPS
            new_scale, new_zero = self._range(low * shrink, high * shrink)
            error = self._codes(blocks, new_scale, new_zero, work)
            if not self.symmetric:
                error.sub_(new_zero[..., None])
            error.mul_(new_scale[..., None]).sub_(blocks).square_()
            total = (error if weights is None else error.mul_(weights)).sum(-1)
            better = total < best
            best = torch.where(better, total, best)
            scale = torch.where(better, new_scale, scale)
            zero = torch.where(better, new_zero, zero)
        return scale, zero

    def _range(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = 1 << (self.bits - 1)
        if self.symmetric:
            scale = torch.maximum(high, -low) / (half - 0.5)
        else:
            scale = (high - low) / (2 * half - 1)
        scale = torch.where(scale <= torch.finfo(torch.bfloat16).tiny, torch.ones_like(scale), scale)
        scale = scale.bfloat16().float()
        if self.symmetric:
            return scale, torch.zeros_like(scale)
        return scale, (-half - low / scale).round().clamp(-half, half - 1)

    def _codes(
        self, blocks: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        half = 1 << (self.bits - 1)
        codes = torch.div(blocks, scale[..., None], out=out)
        if not self.symmetric:
            codes += zero[..., None]
        return codes.round_().clamp_(-half, half - 1)

    def _pack(self, codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> Packed:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        parts = {
            "weight_packed": self._words(codes),
            "weight_scale": scale.bfloat16(),
            "weight_shape": torch.tensor(codes.shape),
        }
        if not self.symmetric:
            parts["weight_zero_point"] = pack_to_int32(zero.to(torch.int8), self.bits, packed_dim=0)
        return Packed(self.name, (codes.shape[0], codes.shape[1]), parts)

    def _words(self, codes: torch.Tensor) -> torch.Tensor:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        return torch.cat([pack_to_int32(part.to(torch.int8), self.bits) for part in _few_rows(codes, codes.shape[1])])

    def _zero(self, packed: Packed) -> torch.Tensor:
        from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

        scale = packed.parts["weight_scale"]
        if self.symmetric:
            return torch.zeros(scale.shape, device=scale.device)
        # Packed along rows; unpacked here along the last dimension of a fresh copy, because the library cannot view a
        # single word a column.
        words = packed.parts["weight_zero_point"].T.clone(memory_format=torch.contiguous_format)
        return unpack_from_int32(words, self.bits, torch.Size((scale.shape[1], scale.shape[0]))).T.float()

    def codes(self, packed: Packed) -> torch.Tensor:
        columns = packed.shape[1]
        parts = _few_rows(packed.parts["weight_packed"], columns)
        return torch.cat([self._unpacked(words, columns) for words in parts])

    def _unpacked(self, words: torch.Tensor, columns: int) -> torch.Tensor:
        from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

        return unpack_from_int32(words, self.bits, torch.Size((len(words), columns))).to(torch.int16)

    def grid(self, packed: Packed) -> Grid:
        scale = packed.parts["weight_scale"].float()
        half = 1 << (self.bits - 1)
        group = packed.shape[1] // scale.shape[1]
        return Grid(scale, -self._zero(packed) * scale, group, -half, half - 1)

    def recode(self, packed: Packed, codes: torch.Tensor) -> Packed:
        return Packed(self.name, packed.shape, {**packed.parts, "weight_packed": self._words(codes)})

    def dequantize(self, packed: Packed) -> torch.Tensor:
        rows, columns = packed.shape
        scale = packed.parts["weight_scale"][..., None]
        zero = self._zero(packed).to(scale.dtype)[..., None]
        codes = self.codes(packed).reshape(rows, scale.shape[1], -1)
        result = torch.empty(codes.shape, device=codes.device)
        together = (_few_rows(each, columns) for each in (result, codes, zero, scale))
        for part, some, shift, step in zip(*together, strict=True):
            # In bf16, as compressed-tensors multiplies when it loads the file.
            part.copy_((some.to(scale.dtype) - shift).mul_(step))
        return result.reshape(rows, columns)

    def take_rows(self, packed: Packed, rows: torch.Tensor) -> Packed:
        # Zero points lie packed along the rows, so they are unpacked, selected and packed again.
        return self._pack(self.codes(packed)[rows], packed.parts["weight_scale"][rows], self._zero(packed)[rows])

    def take_groups(self, packed: Packed, groups: torch.Tensor) -> Packed:
        scale, zero = packed.parts["weight_scale"], self._zero(packed)
        rows = packed.shape[0]
        codes = self.codes(packed).reshape(rows, -1, self.group)[:, groups].reshape(rows, -1)
        if self.channelwise:
            return self._pack(codes, scale, zero)
        return self._pack(codes, scale[:, groups], zero[:, groups])
