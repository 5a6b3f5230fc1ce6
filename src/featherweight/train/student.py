"""A model in training: which of its weights move, how, and what they come to as stored tensors.

Matrices of the blocks move by a low-rank product (arXiv 2106.09685) or freely; vectors (norms, biases) move freely;
embedding and head stay. A plain matrix moves by itself. A rounded one moves on its own grid: scales stay, codes move.
It is computed with the grid values nearest to a latent weight, whose gradient passes straight through the rounding
(arXiv 1308.3432). Latent weights are counted in steps of the grid, so one learning rate suits every format, and start
where the reference model's weight lies in the cell of the present code: what was rounded by a hair moves first.

As long as no change was made, the model computes and stores what it did, bit for bit. The whole module is in memory in
float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from featherweight.core.checkpoint import Stored
from featherweight.core.formats import Packed, get
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.core.numerics import straight_through
from featherweight.core.run import Run
from featherweight.core.sparsity import like
from featherweight.core.stream import head_weight

_INSIDE = 0.45  # of a grid step around a grid value: surely rounded to it
_SPARSE = 0.01  # share of zeros above which they are kept while training, not only in what is stored


@dataclass(frozen=True)
class Trainable:
    """What of a model is trained.

    Attributes:
        rank: of the change of every matrix; None = any change.
        vectors: whether norms and biases move too.
        keep_zeros: whether weights that are zero stay so.
    """

    rank: int | None
    vectors: bool = True
    keep_zeros: bool = True


class Student:
    """The module of a model with trainable changes.

    Args:
        model: what to start from.
        chosen: what is trained.
        run: gives the device and the seed.
        reference: weights, by name and of the same shape, that the rounded ones were rounded from, where known.
    """

    def __init__(
        self, model: Model, chosen: Trainable, run: Run, reference: Callable[[str], torch.Tensor | None] | None = None
    ) -> None:
        self.model, self.device = model, run.device
        self.module = model.module().to(run.device)
        self.head = head_weight(model).to(run.device)
        self.matrices: dict[str, _Matrix] = {}
        for name in model.architecture.linears():
            stored, linear = model.stored(name), self.module.get_submodule(name.removesuffix(".weight"))
            packed = isinstance(stored, Packed)
            change = _change(linear.weight, chosen.rank, packed, run.generator(f"student/{name}"))
            kind = _Rounded if packed else _Plain
            origin = reference(name) if packed and reference else None
            self.matrices[name] = kind(stored, linear, change, chosen.keep_zeros, origin)
        self.vectors = dict(self._vectors()) if chosen.vectors else {}

    def _vectors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The module's vectors, copied: those that it was made with belong to the model."""
        for name, entry in self.model.entries.items():
            if len(entry.shape) == 1:
                owner, _, leaf = name.rpartition(".")
                copy = torch.nn.Parameter(self.module.get_parameter(name).detach().clone(), requires_grad=False)
                setattr(self.module.get_submodule(owner), leaf, copy)
                yield name, copy

    def trained(self) -> dict[str, list[torch.Tensor]]:
        """What moves: changes of "plain" matrices, of those on a "grid", and "vectors"."""
        groups: dict[str, list[torch.Tensor]] = {"plain": [], "grid": [], "vectors": [*self.vectors.values()]}
        for matrix in self.matrices.values():
            groups["grid" if isinstance(matrix, _Rounded) else "plain"] += matrix.change.parameters
        return groups

    def states(self, ids: torch.Tensor, blocks: Sequence[int]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Final hidden states of rows of tokens, and those after some blocks, [rows, tokens, hidden]."""
        with block_outputs(self.module.model.layers, blocks) as after:
            final = self.module.model(input_ids=ids.to(self.device), use_cache=False).last_hidden_state
        return final, after

    def stored(self, share: float = 1.0) -> dict[str, Stored]:
        """The tensors that are not what they were, each in the format that it had; of all changes only a share."""
        found: dict[str, Stored] = {}
        with torch.no_grad():
            for name, matrix in self.matrices.items():
                changed = matrix.stored(share)
                if changed is not None:
                    found[name] = changed
            for name, vector in self.vectors.items():
                before = self.model.tensor(name)
                if not torch.equal(vector.cpu(), before):
                    found[name] = like(self.model.stored(name), before + share * (vector.detach().cpu() - before))
        return found


@contextmanager
def block_outputs(layers: Any, blocks: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What some blocks put out while the context is open."""
    found: dict[int, torch.Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        return lambda module, inputs, output: found.update({index: output})

    handles = [layers[index].register_forward_hook(keep(index)) for index in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class LowRank:
    """up @ down, with `up` zero at first and entries of `down` of about `size`."""

    def __init__(self, weight: torch.Tensor, rank: int, size: float, generator: torch.Generator) -> None:
        rows, columns = weight.shape
        self.down = (size * torch.randn(rank, columns, generator=generator)).to(weight.device)
        self.up = torch.zeros(rows, rank, device=weight.device)
        self.parameters = [self.up, self.down]

    def dense(self) -> torch.Tensor:
        return self.up @ self.down

    def of(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the change adds to the outputs for `inputs` [..., columns]."""
        return (inputs @ self.down.T) @ self.up.T


class Full:
    """Any change."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.change = torch.zeros(weight.shape, device=weight.device)
        self.parameters = [self.change]

    def dense(self) -> torch.Tensor:
        return self.change


def _change(weight: torch.Tensor, rank: int | None, rounded: bool, generator: torch.Generator) -> LowRank | Full:
    """A change in units of the weights, or in steps of the grid: there, `up` moves the weight as far as itself."""
    if rank is None:
        return Full(weight)
    return LowRank(weight, rank, (rank if rounded else weight.shape[1]) ** -0.5, generator)


class _Matrix(ABC):
    """A linear whose weight is trained; its `forward` is replaced."""

    def __init__(
        self, stored: Stored, linear: Any, change: LowRank | Full, keep_zeros: bool, reference: torch.Tensor | None
    ) -> None:
        self.before, self.linear, self.change = stored, linear, change
        self.prepare(reference)
        zeros = self.values() == 0 if keep_zeros else torch.zeros((), dtype=torch.bool)
        self.kept = ~zeros if bool(zeros.any()) else None
        self.sparse = bool(zeros.float().mean() > _SPARSE)
        linear.forward = self.forward

    @abstractmethod
    def prepare(self, reference: torch.Tensor | None) -> None:
        """What a kind of matrix needs to know before it computes."""

    def values(self) -> torch.Tensor:
        """The weight that was stored."""
        weight: torch.Tensor = self.linear.weight.detach()
        return weight

    def moved(self) -> torch.Tensor:
        """The change, nothing where a zero is kept."""
        change = self.change.dense()
        return change if self.kept is None else change * self.kept

    @abstractmethod
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The outputs for `inputs` [..., columns] with the weight as it is now."""

    @abstractmethod
    def stored(self, share: float) -> Stored | None:
        """The weight as it is kept, with a share of its change; None where it is what it was."""


class _Plain(_Matrix):
    """A floating-point weight."""

    def prepare(self, reference: torch.Tensor | None) -> None:
        """Nothing: the weight stays where it is and the change is added to it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        linear = self.linear
        if isinstance(self.change, LowRank) and not self.sparse:
            return torch.nn.functional.linear(inputs, linear.weight, linear.bias) + self.change.of(inputs)
        return torch.nn.functional.linear(inputs, linear.weight + self.moved(), linear.bias)

    def stored(self, share: float) -> Stored | None:
        moved = share * self.moved()
        if not bool(moved.any()):
            return None
        values = torch.where(moved == 0, self.values(), self.values() + moved)  # a change of nothing keeps even -0.0
        return like(self.before, values.cpu())


class _Rounded(_Matrix):
    """A weight on a grid: its codes move, its scales stay."""

    def prepare(self, reference: torch.Tensor | None) -> None:
        number_format, device = get(self.before.format), self.linear.weight.device
        self.linear.weight = None  # latent weights take its place
        self.grid = number_format.grid(self.before).to(device)
        self.codes = number_format.codes(self.before).to(device)
        self.at_first = self.grid.values(self.codes)
        self.spacing = self.grid.spacing.repeat_interleave(self.grid.group, dim=1)
        room = _INSIDE * self.spacing
        offset = 0 * room if reference is None else reference.to(device) - self.at_first
        self.start = self.at_first + offset.clamp(-room, room)

    def values(self) -> torch.Tensor:
        return self.at_first

    def latent(self, share: float = 1.0) -> torch.Tensor:
        return self.start + share * self.moved() * self.spacing

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        latent = self.latent()
        with torch.no_grad():
            rounded = self.grid.values(self.grid.nearest(latent))
        return torch.nn.functional.linear(inputs, straight_through(latent, rounded), self.linear.bias)

    def stored(self, share: float) -> Stored | None:
        codes = self.grid.nearest(self.latent(share))
        # Where the scale is zero, several codes mean the same: the present one stays.
        codes = torch.where(self.grid.values(codes) == self.at_first, self.codes, codes)
        return None if torch.equal(codes, self.codes) else get(self.before.format).recode(self.before, codes.cpu())
