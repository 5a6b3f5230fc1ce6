"""Walks a model and shows, for the linears that share an input, the second moment of that input before they compute.

Whoever is shown it may replace the weights; what comes after sees the new ones. Where the rows of tokens are many, the
module that holds a group (attention, feed-forward) takes them part by part: up to the group, to look, and once more
when all its groups are decided, to compute. Memory then holds the hidden states and the activations of a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from featherweight.core.architecture import Architecture, Reads
from featherweight.core.lazy import torch
from featherweight.core.memory import give_back_memory
from featherweight.core.moments import SecondMoment, second_moment
from featherweight.core.stream import Visitor, in_rows

Run = Callable[..., Any]
Groups = Callable[[int], Sequence[Reads]]
"""Takes a block's index; returns the groups of linears to look at, in the order of computation."""

Act = Callable[[int, torch.nn.Module, Reads, torch.Tensor], None]
"""Takes a block's index and module, a group of linears, and the second moment of their input (float32, CPU)."""

# All rows at once need no second run of anything; that is taken while their activations are no more than this.
_AT_ONCE_BYTES = 128 * 10**6
_PART_BYTES = 64 * 10**6


def rows_at_once(architecture: Architecture, rows: int, length: int) -> int:
    """How many rows of `length` tokens to take through a module together, so that activations stay small."""
    sizes = architecture.sizes
    each = 4 * length * (3 * sizes["hidden"] + 2 * sizes["query"] + 4 * sizes["ffn"])
    return rows if rows * each <= _AT_ONCE_BYTES else max(1, _PART_BYTES // each)


class _Reached(Exception):
    """A group's input has been seen; nothing after it needs to be computed."""


class SharedInputs(Visitor):
    """Calls `act` for every group of linears of every block, each seeing its predecessors as they have become.

    Args:
        groups: which groups to look at.
        act: called once a block and group.
        rows: rows of tokens that go through a module together; None = all.
    """

    def __init__(self, groups: Groups, act: Act, rows: int | None = None) -> None:
        self.groups, self.act, self.rows = groups, act, rows

    def enter(self, index: int, block: torch.nn.Module) -> None:
        holders: dict[str, list[Reads]] = {}
        for read in self.groups(index):
            holders.setdefault(read.linears[0].rpartition(".")[0], []).append(read)
        for name, child in block.named_children():
            if name not in holders:
                self._take_over(index, block, child, ())
        for name, reads in holders.items():
            self._take_over(index, block, block.get_submodule(name), reads)

    def _take_over(self, index: int, block: torch.nn.Module, holder: torch.nn.Module, reads: Sequence[Reads]) -> None:
        """Replaces the forward pass of the module that holds these groups, for as long as the block has weights."""
        run = holder.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            count = next(each.shape[0] for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor))
            if self.rows is None or self.rows >= count:
                return self._at_once(index, block, reads, run, args, kwargs)
            for read in reads:
                self.act(index, block, read, self._moment(block, read, run, count, args, kwargs))
                give_back_memory()
            return in_rows(run, count, self.rows, args, kwargs)

        holder.forward = forward  # type: ignore[method-assign]

    def _at_once(
        self, index: int, block: torch.nn.Module, reads: Sequence[Reads], run: Run, args: Any, kwargs: Any
    ) -> Any:
        def see(read: Reads) -> Callable[[torch.Tensor], None]:
            return lambda inputs: self.act(index, block, read, second_moment(inputs))

        with ExitStack() as stack:
            for read in reads:
                stack.enter_context(_listening(block, read, see(read)))
            return run(*args, **kwargs)

    def _moment(
        self, block: torch.nn.Module, read: Reads, run: Run, count: int, args: Any, kwargs: Any
    ) -> torch.Tensor:
        """Runs the holder up to the group, for all rows."""
        moment = SecondMoment()

        def see(inputs: torch.Tensor) -> None:
            moment.add(inputs)
            raise _Reached

        def part(*some: Any, **named: Any) -> None:
            with suppress(_Reached):
                run(*some, **named)

        with _listening(block, read, see):
            in_rows(part, count, self.rows, args, kwargs)
        return moment.mean()


@contextmanager
def _listening(block: torch.nn.Module, read: Reads, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Shows the input of a group whenever it is about to be computed."""
    first = block.get_submodule(read.linears[0])
    handle = first.register_forward_pre_hook(lambda module, inputs: see(inputs[0]))
    try:
        yield
    finally:
        handle.remove()
