"""Expected parameters, bytes and decode time of a choice that is not made yet: exact sums over a few options.

Decisions are taken independently, so a tensor's expected bytes are its bytes at every combination of the few decisions
that shape it, each times its probability: not a product of mean sizes, and with the formats' own count of bytes. With
one option for certain everywhere it is the count of the sliced and rounded model. Decode time is the measured model of
`plan.cost`, seconds a byte of each format.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from featherweight.core.architecture import block_index
from featherweight.core.errors import SearchError
from featherweight.core.formats import get
from featherweight.core.importance import Order
from featherweight.core.lazy import torch
from featherweight.core.model import Model
from featherweight.plan.cost import LatencyModel
from featherweight.train.decisions import Draw, one_hot
from featherweight.train.space import Choice, Option, Space, depends_on, size_of


@dataclass(frozen=True)
class _Shape:
    """A tensor at every combination of the decisions that shape it.

    Attributes:
        decisions: that shape it.
        unit: the decision on its format; None = it has one format.
        formats: its formats.
        weights: [options of each decision].
        nbytes: [options of each decision, formats].
    """

    decisions: tuple[str, ...]
    unit: str | None
    formats: tuple[str, ...]
    weights: torch.Tensor
    nbytes: torch.Tensor

    def parameters(self, draw: Draw) -> torch.Tensor:
        return _contracted(self.weights, [draw[name] for name in self.decisions])

    def bytes(self, draw: Draw) -> torch.Tensor:
        """Expected bytes in each of its formats, [formats]."""
        shares = torch.ones(1, dtype=torch.float64) if self.unit is None else draw[self.unit].double()
        return _contracted(self.nbytes, [draw[name] for name in self.decisions]) * shares


def _contracted(table: torch.Tensor, shares: Sequence[torch.Tensor]) -> torch.Tensor:
    for each in shares:
        table = torch.tensordot(each.double(), table, dims=1)
    return table


class ExpectedCost:
    """What choices of a space cost.

    Args:
        model: the parent.
        space: the decisions.
        order: says which blocks go first.
        wide: format of vectors, F32 in a GGUF file; None = that of the model.
        matrices: format of matrices that no decision rounds; None = that of the model.
        latency: the measured model of decode time; None = it is not asked for.
    """

    def __init__(
        self,
        model: Model,
        space: Space,
        order: Order,
        wide: str | None = None,
        matrices: str | None = None,
        latency: LatencyModel | None = None,
    ) -> None:
        self.space, self.order, self.model, self.latency = space, order, model, latency
        self._defaults = {1: wide, 2: matrices}
        self._tables: dict[tuple[tuple[str, ...], str | None, tuple[str, ...]], _Shape] = {}
        self.shapes = {name: self._shape(name) for name in model.entries}

    def _shape(self, name: str) -> _Shape:
        entry = self.model.entries[name]
        dimensions = len(entry.shape)
        axes = self.model.architecture.axes(name, dimensions)
        unit = self.space.formats.get(name)
        kinds = (self._defaults[dimensions] or entry.format,) if unit is None else self.space.options[unit]
        key = (axes, unit, tuple(map(str, kinds)))
        if key not in self._tables:
            self._tables[key] = self._table(*key)
        return self._tables[key]

    def _table(self, axes: tuple[str, ...], unit: str | None, kinds: tuple[str, ...]) -> _Shape:
        shaping = dict.fromkeys(name for axis in axes for name in depends_on(axis))
        decisions = tuple(name for name in shaping if name in self.space.options)
        counts = [len(self.space.options[name]) for name in decisions]
        weights = torch.zeros(counts, dtype=torch.float64)
        nbytes = torch.zeros([*counts, len(kinds)], dtype=torch.float64)
        for place in itertools.product(*map(range, counts)):
            choice: dict[str, Option | None] = {
                name: self.space.options[name][index] for name, index in zip(decisions, place, strict=True)
            }
            shape = tuple(size_of(axis, choice, self.model.architecture) for axis in axes)
            weights[place] = math.prod(shape)
            nbytes[place] = torch.tensor([float(get(kind).tensor_bytes(shape)) for kind in kinds], dtype=torch.float64)
        return _Shape(decisions, unit, kinds, weights, nbytes)

    def _present(self, name: str, draw: Draw) -> torch.Tensor | float:
        """The probability that a tensor's block stays."""
        block = block_index(name)
        if block is None or "blocks" not in draw:
            return 1.0
        stays = [float(self.order.rank(block) < int(count)) for count in self.space.options["blocks"]]
        return draw["blocks"].double() @ torch.tensor(stays, dtype=torch.float64)

    def of(self, space: Space) -> ExpectedCost:
        """The same for other options."""
        return ExpectedCost(self.model, space, self.order, self._defaults[1], self._defaults[2], self.latency)

    def parameters(self, draw: Draw) -> torch.Tensor:
        """Expected number of weights, with gradients."""
        return sum(
            (self._present(name, draw) * shape.parameters(draw) for name, shape in self.shapes.items()),
            torch.zeros((), dtype=torch.float64),
        )

    def by_format(self, draw: Draw) -> dict[str, torch.Tensor]:
        """Expected bytes in each format, with gradients."""
        totals: dict[str, torch.Tensor] = {}
        for name, shape in self.shapes.items():
            for kind, size in zip(shape.formats, self._present(name, draw) * shape.bytes(draw), strict=True):
                totals[kind] = totals.get(kind, torch.zeros((), dtype=torch.float64)) + size
        return totals

    def bytes(self, draw: Draw) -> torch.Tensor:
        """Expected bytes of all tensors, with gradients."""
        return torch.stack([*self.by_format(draw).values()]).sum()

    def seconds(self, draw: Draw) -> torch.Tensor:
        """Expected seconds a decoded token, with gradients."""
        if self.latency is None:
            raise SearchError("decode time", "was not measured", "set a latency limit, so that the runtime is timed")
        slowest = max(self.latency.rates.values(), default=0.0)
        terms = [self.latency.rates.get(kind, slowest) * size for kind, size in self.by_format(draw).items()]
        return self.latency.overhead + torch.stack(terms).sum()

    def bytes_of(self, choice: Choice) -> int:
        """Exact bytes of all tensors of a choice."""
        return round(float(self.bytes(one_hot(self.space, choice))))

    def seconds_of(self, choice: Choice) -> float:
        """Expected seconds a decoded token of a choice."""
        return float(self.seconds(one_hot(self.space, choice)))

    def by_unit(self, architecture: Choice) -> tuple[dict[str, dict[str, int]], int]:
        """Bytes of every format decision's options under an architecture, and bytes of everything else."""
        first = {**architecture, **{name: self.space.options[name][0] for name in set(self.space.formats.values())}}
        draw = one_hot(self.space, first)
        units: dict[str, dict[str, int]] = {}
        rest = 0.0
        for name, shape in self.shapes.items():
            table = float(self._present(name, draw)) * _contracted(shape.nbytes, [draw[d] for d in shape.decisions])
            if shape.unit is None:
                rest += float(table.sum())
                continue
            row = units.setdefault(shape.unit, dict.fromkeys(shape.formats, 0))
            for kind, size in zip(shape.formats, table.tolist(), strict=True):
                row[kind] += round(size)
        return units, round(rest)

    def smallest(self) -> dict[str, Option]:
        """The choice with the fewest bytes: every size at its least, every format at its shortest."""
        least = {name: options[0] for name, options in self.space.options.items()}
        units, _ = self.by_unit(least)
        return {**least, **{name: min(row, key=lambda kind: (row[kind], kind)) for name, row in units.items()}}


@dataclass(frozen=True)
class Limits:
    """What a choice may cost.

    Attributes:
        most: bytes of all tensors at most.
        least: bytes of all tensors at least.
        seconds: a decoded token at most; None = no limit.
    """

    most: float
    least: float = 0.0
    seconds: float | None = None

    def allows(self, cost: ExpectedCost, choice: Choice) -> bool:
        """Whether a choice keeps to all limits."""
        size = cost.bytes_of(choice)
        in_time = self.seconds is None or cost.seconds_of(choice) <= self.seconds
        return self.least <= size <= self.most and in_time

    def excess(self, cost: ExpectedCost, draw: Draw, size_weight: float, latency_weight: float) -> torch.Tensor:
        """The search's penalty: expected bytes outside the limits as a share of them, and decode time.

        Bytes stand for the paper's parameters: with formats to choose from, a budget is in bytes. Decode time counts
        as a share of its limit, whether that is kept or not, as in the paper.
        """
        size = cost.bytes(draw)
        over = torch.relu(size / self.most - 1) + torch.relu(self.least / self.most - size / self.most)
        total = size_weight * over
        if self.seconds is not None:
            total = total + latency_weight * cost.seconds(draw) / self.seconds
        return total.float()


def require_feasible(cost: ExpectedCost, limits: Limits) -> None:
    """Refuses a space in which nothing keeps to the limits.

    Raises:
        SearchError: with what the smallest choice takes.
    """
    smallest = cost.smallest()
    size = cost.bytes_of(smallest)
    if size > limits.most:
        raise SearchError(
            f"a search space of {cost.space.size:,} choices", f"holds none within {limits.most:,.0f} bytes of tensors: "
            f"its smallest takes {size:,}", "allow more memory, or offer smaller sizes or formats",
        )  # fmt: skip
    if limits.seconds is not None and cost.seconds_of(smallest) > limits.seconds:
        raise SearchError(
            f"a search space of {cost.space.size:,} choices",
            f"holds none expected to decode a token in {limits.seconds * 1e3:.1f} ms: its smallest is expected to take "
            f"{cost.seconds_of(smallest) * 1e3:.1f} ms", "allow more time, or offer smaller sizes or formats",
        )  # fmt: skip
