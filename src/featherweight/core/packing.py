"""Packing: examples of different lengths share rows, so that little is computed on padding.

Best fit, longest first; which examples share a row depends on nothing but their lengths and order. Examples in a row do
not see each other (`core.batch`). Tokens are kept as they came; a batch is made when it is asked for.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
from collections.abc import Sequence

from featherweight.core.batch import IGNORED, Batch
from featherweight.core.data import TokenSet
from featherweight.core.examples import Example
from featherweight.core.lazy import np, torch


class PackedRows:
    """Rows of examples.

    Args:
        examples: at most `length` tokens each.
        length: tokens of a row.
        pad: id of the padding, which nothing sees.
        share: whether examples share rows; otherwise each has its own.
    """

    def __init__(self, examples: Sequence[Example], length: int, pad: int = 0, share: bool = True) -> None:
        self.examples, self.length, self.pad = list(examples), length, pad
        lengths = [len(each.ids) for each in self.examples]
        self.rows = best_fit(lengths, length) if share else [[number] for number in range(len(lengths))]
        counts = [each.trainable for each in self.examples]
        self._trainable = [sum(counts[number] for number in row) for row in self.rows]

    @classmethod
    def of_tokens(cls, tokens: TokenSet) -> PackedRows:
        """Rows of text as they are, every token trained on."""
        everything = np.ones(tokens.ids.shape[1], dtype=np.bool_)
        examples = [
            Example(row.astype(np.int32), everything, f"calibration row {number}")
            for number, row in enumerate(tokens.ids.numpy(), 1)
        ]
        return cls(examples, tokens.ids.shape[1], share=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Number of tokens, padding not counted."""
        return sum(len(each.ids) for each in self.examples)

    def trainable(self, rows: Sequence[int] | None = None) -> int:
        """Number of predictions that count in some rows, or in all."""
        return sum(self._trainable if rows is None else (self._trainable[row] for row in rows))

    def where(self, rows: Sequence[int]) -> str:
        """Which examples some rows hold, for errors."""
        return ", ".join(dict.fromkeys(self.examples[number].where for row in rows for number in self.rows[row]))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all tokens, marks and rows."""
        hashed = hashlib.sha256(str(self.rows).encode())
        for each in self.examples:
            hashed.update(each.ids.tobytes() + each.trained.tobytes())
        return hashed.hexdigest()

    def batch(self, rows: Sequence[int]) -> Batch:
        """Some rows, as long as the longest of them."""
        width = max(sum(len(self.examples[number].ids) for number in self.rows[row]) for row in rows)
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        labels, segments = np.full_like(ids, IGNORED), np.full_like(ids, -1)
        positions = np.zeros_like(ids)
        for index, row in enumerate(rows):
            first = 0
            for segment, number in enumerate(self.rows[row]):
                example = self.examples[number]
                part = slice(first, first + len(example.ids))
                ids[index, part] = example.ids
                labels[index, part] = np.where(example.trained, example.ids, IGNORED)
                positions[index, part] = np.arange(len(example.ids))
                segments[index, part] = segment
                first = part.stop
            positions[index, first:] = len(example.ids) + np.arange(width - first)  # a lone example stays causal
        return Batch(*(torch.from_numpy(each) for each in (ids, labels, positions, segments)))


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of lengths that share a row of `room`: longest first, each where the least room would be left.

    Returns:
        The rows, in the order of the first index that each holds; in a row, indices rise.
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # room left and row, smallest first
    for index in sorted(range(len(lengths)), key=lambda each: (-lengths[each], each)):
        place = bisect.bisect_left(spaces, (lengths[index], -1))
        left, row = spaces.pop(place) if place < len(spaces) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
        bisect.insort(spaces, (left - lengths[index], row))
    return sorted(sorted(row) for row in rows)
