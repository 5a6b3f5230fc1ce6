"""Blocks that keep only their input for the backward pass, in memory or on disk, and are computed again there.

With L blocks, peak memory falls from L blocks' activations to one block's and L inputs, or three inputs where they go
to disk; the price is one more forward pass. Random numbers are those of the first time, so dropout drops the same
(arXiv 1604.06174; the file: 2606.19528, its second part). Gradients are bitwise those of an ordinary backward pass.

What a block computes must not change between its two runs. Where it has (an adapter's rank was switched before the
backward pass, say), its output is another, and that is refused. `backward` works, `torch.autograd.grad` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from featherweight.core.errors import TrainingError
from featherweight.core.lazy import torch
from featherweight.train.spill import Spill, Spilled

_MARKS = 64  # numbers of a block's output that are compared


class _Boundaries:
    """Inputs of blocks that wait for the backward pass, last in, first out."""

    def __init__(self, spill: Spill | None, relieve: Callable[[], None]) -> None:
        self.spill, self.relieve = spill, relieve
        self.waiting: list[Spilled] = []

    def keep(self, hidden: torch.Tensor) -> torch.Tensor | Spilled:
        if self.spill is None:
            return hidden.detach()
        place = self.spill.put(hidden)
        self.waiting.append(place)
        return place

    def give(self, kept: torch.Tensor | Spilled) -> torch.Tensor:
        if not isinstance(kept, Spilled):
            return kept.detach()
        assert self.spill is not None  # it wrote what is kept
        hidden = self.spill.pop(kept)
        self.waiting.remove(kept)
        if self.waiting:
            self.spill.prefetch(self.waiting[-1])
        return hidden


class _Block(torch.autograd.Function):
    """One block. `anchor` is a leaf that needs a gradient, so that frozen embeddings do not end the graph."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[torch.Tensor], Any], boundaries: _Boundaries, anchor: Any, hidden: torch.Tensor
    ) -> Any:
        ctx.run, ctx.boundaries, ctx.random = run, boundaries, _random_state(hidden.device)
        with torch.no_grad():
            output = run(hidden)
        ctx.mark = _mark(output)
        ctx.kept = boundaries.keep(hidden)
        boundaries.relieve()
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None, None, torch.Tensor | None]:
        hidden = ctx.boundaries.give(ctx.kept).requires_grad_(ctx.needs_input_grad[3])
        ctx.kept = None
        with torch.enable_grad(), _random_from(ctx.random, hidden.device):
            output = ctx.run(hidden)
        if not _same(_mark(output), ctx.mark):
            raise TrainingError(
                "block checkpointing", "a block computed something else in the backward pass than before",
                "go backward before the adapter is switched, or train without checkpointing",
            )  # fmt: skip
        if output.requires_grad:
            torch.autograd.backward(output, grads[0])
        del output
        ctx.boundaries.relieve()
        return None, None, None, hidden.grad


def _mark(output: torch.Tensor) -> torch.Tensor:
    return output.detach().reshape(-1)[-_MARKS:].clone()


def _same(now: torch.Tensor, before: torch.Tensor) -> bool:
    return torch.allclose(now, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _random_from(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield


@contextmanager
def recomputed(blocks: Any, spill: Spill | None = None, relieve: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Checkpoints every block while the `with` block lasts, wherever a gradient is wanted.

    Args:
        blocks: the module list of a model's blocks, called with hidden states first.
        spill: where the inputs of blocks go; None = they stay in memory.
        relieve: called behind every block, forward and backward, when what it needed has just been freed.
    """
    before = [(block.forward, "forward" in vars(block)) for block in blocks]
    boundaries = _Boundaries(spill, relieve)
    anchor = torch.zeros((), requires_grad=True)
    for block, (original, _) in zip(blocks, before, strict=True):
        block.forward = _wrapped(original, boundaries, anchor)
    try:
        yield
    finally:
        for block, (original, own) in zip(blocks, before, strict=True):
            del block.forward
            if own:
                block.forward = original


def _wrapped(original: Callable[..., Any], boundaries: _Boundaries, anchor: torch.Tensor) -> Callable[..., Any]:
    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        others = (*args, *kwargs.values())
        # A second input with a gradient would lose it.
        if not torch.is_grad_enabled() or any(isinstance(each, torch.Tensor) and each.requires_grad for each in others):
            return original(hidden, *args, **kwargs)

        def run(states: torch.Tensor) -> Any:
            return original(states, *args, **kwargs)

        return _Block.apply(run, boundaries, anchor, hidden)  # type: ignore[no-untyped-call]

    return forward
