"""Walks a model and shows, for the linears that share an input, the second moment of that input before they compute.

Whoever is shown it may replace the weights, and what comes after sees the new ones. Pruners decide by it. With `twice`
off, all rows go through a block at once and each group of linears sees its predecessors as they have become; with
`twice` on, rows may be split (less memory), and a block's linears are shown what the unchanged block computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from featherweight.core.architecture import Reads
from featherweight.core.lazy import torch
from featherweight.core.stream import Visitor

Act = Callable[[int, "torch.nn.Module", Reads, "torch.Tensor"], None]
"""Takes a block's index and module, a group of linears, and the moment of their input, float32 on the CPU."""


class InputMoments(Visitor):
    """Calls `act` for every group of linears of every block.

    Args:
        reads: the groups of linears to look at.
        act: called once a block and group, with mean(x x^T) [columns, columns], or its diagonal [columns].
        diagonal: whether the diagonal is all that is wanted.
        twice: run each block twice; needed when rows are split.
    """

    def __init__(self, reads: Sequence[Reads], act: Act, diagonal: bool = False, twice: bool = False) -> None:
        self.reads, self.act, self.diagonal, self.twice = reads, act, diagonal, twice
        self._sums: dict[Reads, tuple[torch.Tensor, int]] = {}
        self._hooks: list[Any] = []

    def enter(self, index: int, block: torch.nn.Module) -> None:
        self._sums.clear()
        for read in self.reads:
            first = block.get_submodule(read.linears[0])
            self._hooks.append(first.register_forward_pre_hook(self._hook(index, block, read)))

    def _hook(self, index: int, block: torch.nn.Module, read: Reads) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            flat = inputs[0].flatten(0, 1)
            total = flat.square().sum(0) if self.diagonal else flat.T @ flat
            if self.twice:
                before, count = self._sums.get(read, (0, 0))
                self._sums[read] = (before + total, count + flat.shape[0])
            else:
                self.act(index, block, read, (total / flat.shape[0]).cpu())

        return hook

    def between(self, index: int, block: torch.nn.Module) -> None:
        for read, (total, count) in self._sums.items():
            self.act(index, block, read, (total / count).cpu())
        self._unhook()

    def leave(self, index: int, block: torch.nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        self._unhook()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def weight_of(block: torch.nn.Module, module: str) -> torch.Tensor:
    """The present weight of a linear of a block, float32 [rows, columns] on the CPU."""
    return block.get_parameter(f"{module}.weight").float().cpu()


def set_weight(block: torch.nn.Module, module: str, values: torch.Tensor) -> None:
    """Replaces the weight of a linear of a block for the rest of the pass."""
    device = block.get_parameter(f"{module}.weight").device
    # A new parameter: the old one may share its memory with the model that was given.
    block.get_submodule(module).weight = torch.nn.Parameter(values.to(device), requires_grad=False)
