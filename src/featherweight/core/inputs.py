"""Walks a model and shows, for the linears that share an input, the second moment of that input before they compute.

Whoever is shown it may replace the weights; what comes after sees the new ones. Pruners and GPTQ decide by it. Where
rows of tokens are many, the module that holds a group (attention, feed-forward) takes them part by part: up to the
group, to look, and once more when all its groups are decided, to compute. Memory then holds the hidden states and the
activations of a few rows, and the result is that of all rows at once. Inputs of a module's last linear are kept where
they are not many, so that the second time starts there. With `twice`, a block's linears are shown what the unchanged
block computes instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from featherweight.core.architecture import Reads
from featherweight.core.lazy import torch
from featherweight.core.memory import give_back_memory
from featherweight.core.moments import Moment
from featherweight.core.stream import Visitor, in_rows

Act = Callable[[int, "torch.nn.Module", Reads, "torch.Tensor"], None]
"""Takes a block's index and module, a group of linears, and the moment of their input, float32 on the CPU."""

Wanted = Callable[[int, Reads], bool]
See = Callable[["torch.Tensor"], object]
Forward = Callable[..., Any]

# All rows at once need no second run of anything: done while the activations of a module are no more than this.
_AT_ONCE_BYTES = 64 * 10**6
_PART_BYTES = 12 * 10**6
# What a module's last linear reads is kept while it is no more than this share of what the module reads.
_KEPT_SHARE = 1.0


class InputMoments(Visitor):
    """Calls `act` for every group of linears of every block.

    Args:
        reads: the groups of linears to look at, in the order of computation.
        act: called once a block and group, with mean(x x^T) [columns, columns], or its diagonal [columns].
        diagonal: whether the diagonal is all that is wanted.
        twice: show all groups of a block what the unchanged block computes, and let it compute again afterwards.
        rows: rows of tokens that go through a module together; None = as many as need little memory. With `twice`,
            give them to `stream`.
        wanted: says whether a group of a block is to be looked at; None = every one.
    """

    def __init__(
        self,
        reads: Sequence[Reads],
        act: Act,
        diagonal: bool = False,
        twice: bool = False,
        rows: int | None = None,
        wanted: Wanted | None = None,
    ) -> None:
        self.reads, self.act, self.diagonal = reads, act, diagonal
        self.twice, self.rows, self.wanted = twice, rows, wanted
        self._unchanged: list[tuple[Reads, Moment, ExitStack]] = []

    def enter(self, index: int, block: torch.nn.Module) -> None:
        reads = [read for read in self.reads if self.wanted is None or self.wanted(index, read)]
        if self.twice:
            self._unchanged = [self._watched(block, read) for read in reads]
            return
        for name, holder in block.named_children():
            held = [read for read in reads if read.linears[0].partition(".")[0] == name]
            self._take_over(index, block, holder, held)

    def _watched(self, block: torch.nn.Module, read: Reads) -> tuple[Reads, Moment, ExitStack]:
        moment, stack = Moment(self.diagonal), ExitStack()
        stack.enter_context(_listening(block, read, moment.add))
        return read, moment, stack

    def between(self, index: int, block: torch.nn.Module) -> None:
        for read, moment, stack in self._unchanged:
            stack.close()
            self.act(index, block, read, moment.mean())

    def _take_over(self, index: int, block: torch.nn.Module, holder: torch.nn.Module, reads: Sequence[Reads]) -> None:
        """Replaces the forward pass of a module of the block, for as long as the block has weights."""
        run: Forward = holder.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            first = next(each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor))
            count, rows = first.shape[0], self.rows or _rows_at_once(holder, first)
            if rows >= count:
                return self._at_once(index, block, reads, run, args, kwargs)
            kept = _Kept(int(_KEPT_SHARE * first.nbytes))
            for read in reads:
                keep = kept.offer if read is reads[-1] else None
                moment = self._moment(block, read, run, (count, rows), args, kwargs, keep)
                give_back_memory()
                self.act(index, block, read, moment)
                give_back_memory()
            finish = _Finish(run, block.get_submodule(reads[-1].linears[-1]), kept) if reads else run
            return in_rows(finish, count, rows, args, kwargs)

        holder.forward = forward

    def _at_once(
        self, index: int, block: torch.nn.Module, reads: Sequence[Reads], run: Forward, args: Any, kwargs: Any
    ) -> Any:
        def see(read: Reads) -> See:
            return lambda inputs: self.act(index, block, read, Moment(self.diagonal).add(inputs).mean())

        with ExitStack() as stack:
            for read in reads:
                stack.enter_context(_listening(block, read, see(read)))
            return run(*args, **kwargs)

    def _moment(
        self,
        block: torch.nn.Module,
        read: Reads,
        run: Forward,
        rows: tuple[int, int],
        args: Any,
        kwargs: Any,
        keep: See | None,
    ) -> torch.Tensor:
        """Runs the holder up to the group, for all rows."""
        moment = Moment(self.diagonal)

        def see(inputs: torch.Tensor) -> None:
            moment.add(inputs)
            if keep is not None:
                keep(inputs)
            raise _Reached

        def run_up_to_it(*some: Any, **named: Any) -> None:
            with suppress(_Reached):
                run(*some, **named)

        with _listening(block, read, see):
            in_rows(run_up_to_it, *rows, args, kwargs)
        return moment.mean()


class _Reached(Exception):
    """A group's input has been seen; nothing after it needs to be computed."""


class _Kept(deque["torch.Tensor"]):
    """What a linear read, for the first parts of the rows, up to a number of bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def offer(self, inputs: torch.Tensor) -> None:
        """Keeps one more part, if all before it were kept and there is room."""
        self._room = self._room - inputs.nbytes if inputs.nbytes <= self._room else 0
        if self._room:
            self.append(inputs)


class _Finish:
    """A module's forward pass that starts at its last linear, for the parts whose input there was kept.

    Only where the first part shows that the module returns the very tensor which that linear gives.
    """

    def __init__(self, run: Forward, linear: torch.nn.Module, kept: _Kept) -> None:
        self.run, self.linear, self.kept = run, linear, kept
        self._rest: tuple[Any, ...] | None = None  # returned after that tensor; None = it is returned alone
        self._known = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = self.kept.popleft() if self.kept else None
        if inputs is None:
            return self.run(*args, **kwargs)
        if not self._known:
            return self._first(args, kwargs)
        output = self.linear(inputs)
        return output if self._rest is None else (output, *self._rest)

    def _first(self, args: Any, kwargs: Any) -> Any:
        """Runs the whole module; without the kept inputs from here on where it does more than pass on its linear."""
        given: list[torch.Tensor] = []
        handle = self.linear.register_forward_hook(lambda module, inputs, output: given.append(output))
        try:
            output = self.run(*args, **kwargs)
        finally:
            handle.remove()
        first, *rest = output if isinstance(output, tuple) else (output,)
        self._known = len(given) == 1 and first is given[0] and all(each is None for each in rest)
        self._rest = tuple(rest) if isinstance(output, tuple) else None
        if not self._known:
            self.kept.clear()
        return output


@contextmanager
def _listening(block: torch.nn.Module, read: Reads, see: See) -> Iterator[None]:
    """Shows the input of a group whenever it is about to be computed."""

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        see(inputs[0])

    handle = block.get_submodule(read.linears[0]).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _rows_at_once(holder: torch.nn.Module, inputs: torch.Tensor) -> int:
    """How many of the rows of [rows, tokens, columns] go through a module together."""
    count, tokens, columns = inputs.shape
    outputs = sum(each.weight.shape[0] for each in holder.modules() if isinstance(each, torch.nn.Linear))
    each = 4 * tokens * (3 * columns + 2 * outputs)
    return count if count * each <= _AT_ONCE_BYTES else max(1, _PART_BYTES // each)


def weight_of(block: torch.nn.Module, module: str) -> torch.Tensor:
    """The present weight of a linear of a block, float32 [rows, columns] on the CPU."""
    return block.get_parameter(f"{module}.weight").float().cpu()


def set_weight(block: torch.nn.Module, module: str, values: torch.Tensor) -> None:
    """Replaces the weight of a linear of a block for the rest of the pass."""
    device = block.get_parameter(f"{module}.weight").device
    # A new parameter: the old one may share its memory with the model that was given.
    block.get_submodule(module).weight = torch.nn.Parameter(values.to(device), requires_grad=False)
