"""The block types of GGUF files: Q4_0 ... Q8_0, IQ4_NL, IQ4_XS and the K-quants.

Scales are found by ggml's kernels (with importance where given), codes may then be rewritten by any rounding method,
and values are read back by ggml's kernels or gguf-py, so that what is measured is what llama.cpp will load.
"""

from __future__ import annotations

from featherweight.core.formats.base import Format, Grid, Packed
from featherweight.core.formats.ggml_kernels import dequantize_into, quantize
from featherweight.core.formats.ggml_layouts import LAYOUTS
from featherweight.core.lazy import gguf, np, torch

# Bytes a block, by type; gguf-py knows them too, but `list` and the planner need them without importing it.
_BLOCK_BYTES = {
    "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "IQ4_NL": 18, "IQ4_XS": 136,
    "Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210,
}  # fmt: skip


class GgmlBlocks(Format):
    """A ggml block type; `group` is its whole block, because the row length must be a multiple of that."""

    runtime = "gguf"

    def __init__(self, name: str) -> None:
        self.name = name
        self.layout = LAYOUTS[name]
        self.group = self.layout.block

    def row_bits(self, columns: int) -> float:
        return columns // self.group * _BLOCK_BYTES[self.name] * 8

    def fit(self, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Packed:
        columns = None if importance is None else importance.numpy()
        blocks = quantize(weight.detach().numpy(), self.name, columns)
        return self.from_blocks(torch.from_numpy(blocks), weight.shape[1])

    def from_blocks(self, blocks: torch.Tensor, columns: int) -> Packed:
        """A packed tensor from blocks uint8 [rows, bytes a row] as they lie in a GGUF file."""
        return Packed(self.name, (blocks.shape[0], columns), {"blocks": blocks})

    def _blocks(self, packed: Packed) -> np.ndarray:
        return packed.parts["blocks"].numpy().reshape(-1, _BLOCK_BYTES[self.name])

    def grid(self, packed: Packed) -> Grid:
        rows = packed.shape[0]
        scale, minimum = self.layout.scales(self._blocks(packed))
        levels = self.layout.levels
        return Grid(
            torch.from_numpy(scale.reshape(rows, -1)),
            torch.from_numpy(minimum.reshape(rows, -1)),
            self.layout.group,
            self.layout.low,
            self.layout.high,
            None if levels is None else torch.tensor(levels, dtype=torch.float32),
        )

    def codes(self, packed: Packed) -> torch.Tensor:
        codes = self.layout.codes(self._blocks(packed)).astype(np.int16)
        return torch.from_numpy(codes.reshape(packed.shape))

    def recode(self, packed: Packed, codes: torch.Tensor) -> Packed:
        blocks = self._blocks(packed).copy()
        self.layout.write(blocks, codes.numpy().astype(np.uint8).reshape(len(blocks), -1))
        return self.from_blocks(torch.from_numpy(blocks.reshape(packed.shape[0], -1)), packed.shape[1])

    def dequantize(self, packed: Packed) -> torch.Tensor:
        values = torch.empty(packed.shape)
        if dequantize_into(packed.parts["blocks"].contiguous(), self.name, values):
            return values
        kind = gguf.GGMLQuantizationType[self.name]
        return torch.from_numpy(gguf.quants.dequantize(packed.parts["blocks"].numpy(), kind))

    def take_rows(self, packed: Packed, rows: torch.Tensor) -> Packed:
        return self.from_blocks(packed.parts["blocks"][rows], packed.shape[1])

    def take_groups(self, packed: Packed, groups: torch.Tensor) -> Packed:
        rows = packed.shape[0]
        blocks = packed.parts["blocks"].reshape(rows, -1, _BLOCK_BYTES[self.name])[:, groups]
        return self.from_blocks(blocks.reshape(rows, -1), groups.numel() * self.group)
