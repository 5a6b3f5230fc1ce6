"""Frozen matrices that take few bytes: kept as they are stored, or on disk, and made dense a piece at a time.

A linear layer y = W x whose W is not trained needs W twice, for y and for grad_x = grad_y W, and only while it
computes. `FrozenLinear` saves nothing for the backward pass but a reference to the small form; the dense piece is made
again (arXiv 2606.19528, its first part, and QLoRA, 2305.14314). Values are those of the stored form, bit for bit.
It knows no optimizer and no adapter: PEFT takes it for the `torch.nn.Linear` that it is.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from featherweight.core.checkpoint import Entry, Stored
from featherweight.core.errors import TrainingError
from featherweight.core.formats import Packed
from featherweight.core.formats.expand import expand, expand_rows, moved, row_slice
from featherweight.core.lazy import torch
from featherweight.train.spill import Spill, Spilled

PIECE = 1 << 22
"""Weights that are dense at once, 16 MB: a block's matrix whole, a vocabulary's in parts."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a matrix: the first, how many, and what gives them in their small form when they are needed."""

    first: int
    rows: int
    read: Callable[[], Stored]


_rooms = threading.local()


def _room() -> torch.Tensor:
    """Memory for one piece, this thread's: asking the system for it at every use costs more than the use."""
    if not hasattr(_rooms, "piece"):
        _rooms.piece = torch.empty(PIECE)
    room: torch.Tensor = _rooms.piece
    return room


class Frozen:
    """A matrix [rows, columns] in pieces.

    Args:
        shape: rows and columns.
        pieces: in order, without gaps.
        nbytes: that stay in memory.
    """

    def __init__(self, shape: tuple[int, int], pieces: list[Piece], nbytes: int) -> None:
        self.shape, self.pieces, self.nbytes = shape, pieces, nbytes

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        """First row and values of every piece, one dense at a time."""
        return ((piece.first, expand(piece.read())) for piece in self.pieces)

    def lent(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The same in memory that the next piece of any matrix takes: for what is used at once and not kept."""
        return ((piece.first, expand(piece.read(), _room())) for piece in self.pieces)

    def dense(self) -> torch.Tensor:
        """The whole matrix, float32."""
        weights = [weight for _, weight in self]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Some rows, int64 of any shape, as float32 [*rows.shape, columns]."""
        flat = rows.reshape(-1)
        taken = torch.empty(flat.numel(), self.shape[1], device=rows.device)
        for piece in self.pieces:
            here = ((flat >= piece.first) & (flat < piece.first + piece.rows)).nonzero().squeeze(-1)
            if here.numel():
                taken[here] = expand_rows(piece.read(), flat[here] - piece.first, _room())
        return taken.reshape(*rows.shape, self.shape[1])


def kept(entry: Entry, device: str = "cpu") -> Frozen:
    """A tensor of a model in a device's memory, in the bytes in which it is stored."""
    stored = moved(entry.load(), device)
    cut = [(first, last, row_slice(stored, first, last)) for first, last in _cuts(entry)]
    pieces = [Piece(first, last - first, functools.partial(_same, part)) for first, last, part in cut]
    return Frozen(_shape(entry), pieces, entry.nbytes)


def spilled(entry: Entry, spill: Spill, device: str = "cpu") -> Frozen:
    """A tensor of a model in a temporary file, from which its pieces are read whenever they are needed."""
    stored = moved(entry.load(), device)
    pieces = [
        Piece(first, last - first, _reader(row_slice(stored, first, last), spill)) for first, last in _cuts(entry)
    ]
    return Frozen(_shape(entry), pieces, 0)


def _shape(entry: Entry) -> tuple[int, int]:
    return entry.shape[0], entry.shape[1]


def _cuts(entry: Entry) -> list[tuple[int, int]]:
    rows, columns = _shape(entry)
    step = max(32, PIECE // columns // 32 * 32)  # packed zero points are cut at whole words
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def _same(stored: Stored) -> Stored:
    return stored


def _reader(stored: Stored, spill: Spill) -> Callable[[], Stored]:
    if not isinstance(stored, Packed):
        place = spill.put(stored)
        return lambda: spill.get(place)
    places: dict[str, Spilled] = {name: spill.put(part) for name, part in stored.parts.items()}
    return lambda: Packed(stored.format, stored.shape, {name: spill.get(each) for name, each in places.items()})


Pieces = Callable[[], "Iterator[tuple[int, torch.Tensor]]"]
"""First row and values of every piece of a matrix, whenever they are needed."""


def whole(weight: torch.Tensor) -> Pieces:
    """A dense matrix as its only piece."""
    return lambda: iter([(0, weight)])


def product(x: torch.Tensor, pieces: Pieces, bias: torch.Tensor | None, size: int) -> torch.Tensor:
    """x W^T + bias, [..., size], in new memory."""
    out: torch.Tensor | None = None
    for first, weight in pieces():
        part = slice(first, first + len(weight))
        one = nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias[part])
        if len(weight) == size:
            return one
        out = x.new_empty(*x.shape[:-1], size) if out is None else out
        out[..., part] = one
    assert out is not None  # a matrix has rows
    return out


def product_back(grad: torch.Tensor, pieces: Pieces) -> torch.Tensor:
    """grad W, [..., in], in new memory."""
    parts = ((grad[..., first : first + len(weight)], weight.to(grad.dtype)) for first, weight in pieces())
    part, weight = next(parts)
    total = part @ weight
    for part, weight in parts:
        total += part @ weight
    return total


class _Product(torch.autograd.Function):
    """x W^T + bias; only W's small form is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: Frozen, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.frozen = frozen
        return product(x, frozen.lent, bias, frozen.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        return product_back(grads[0], ctx.frozen.lent) if ctx.needs_input_grad[0] else None, None, None


class Values(torch.Tensor):
    """The values of a frozen matrix, to look at. Who writes to a copy means to change the matrix, and is told."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        """Refused: what PEFT's merge writes to.

        Raises:
            TrainingError: always.
        """
        raise TrainingError(
            "a frozen base in a small form", "cannot be changed in place", "merge the adapter into the dense model"
        )


class FrozenLinear(nn.Linear):
    """A linear layer whose matrix is frozen and small; `weight` gives its values, not a place to write to."""

    def __init__(self, frozen: Frozen, bias: torch.Tensor | None = None) -> None:
        nn.Module.__init__(self)
        self.frozen = frozen
        self.out_features, self.in_features = frozen.shape
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The values, float32 [out, in]."""
        return self.frozen.dense().as_subclass(Values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        product: torch.Tensor = _Product.apply(x, self.frozen, self.bias)  # type: ignore[no-untyped-call]
        return product


class FrozenEmbedding(nn.Embedding):
    """A frozen table of which only the rows that are looked up become dense."""

    def __init__(self, frozen: Frozen, dtype: torch.dtype = torch.float32) -> None:
        nn.Module.__init__(self)
        self.frozen, self.dtype = frozen, dtype
        self.num_embeddings, self.embedding_dim = frozen.shape
        self.padding_idx = None

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The values, float32 [vocabulary, hidden]."""
        return self.frozen.dense().as_subclass(Values)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [...] -> [..., hidden]."""
        return self.frozen.take(ids).to(self.dtype)
