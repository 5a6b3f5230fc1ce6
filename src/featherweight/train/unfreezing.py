"""Progressive unfreezing: which tensors train from which step on, top blocks first, with any method and optimizer.

A frozen tensor requires no gradient: none is computed, none enters the norm that is clipped, and optimizers skip it, so
its state stays empty and weight decay leaves it alone. A schedule in which everything starts at step 0 changes nothing,
bit for bit. It is a function of the step alone, so training that is resumed goes on as it would have.

The rates of lower stages are divided by 2.6 a stage, as in ULMFiT (arXiv 1801.06146): over thirty single blocks this
comes to 1e-12, hence a few stages of several blocks. After CogAdapt (arXiv 2605.22774), whose schedule is not public.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from featherweight.core.errors import RecipeError
from featherweight.core.lazy import torch

_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed\w*|wte|wpe|\w*embeddings?)\.")


@dataclass(frozen=True)
class Stage:
    """Tensors that start together.

    Attributes:
        start: the step from which they train.
        factor: what their rate is multiplied by.
        names: of the tensors.
    """

    start: int
    factor: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Unfreezing:
    """A schedule.

    Attributes:
        stages: of which no two have a tensor in common; tensors that are in none train from the start.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        names = [name for stage in self.stages for name in stage.names]
        if len(names) != len(set(names)):
            twice = next(name for name in names if names.count(name) > 1)
            raise RecipeError(f"unfreezing: {twice!r}", "is in two stages", "leave it in one")
        if any(stage.start < 0 or stage.factor <= 0 for stage in self.stages):
            raise RecipeError("unfreezing", "has a negative start or a factor of 0", "give starts from 0 up")

    @property
    def factors(self) -> dict[str, float]:
        """What `build_optimizer` takes as `factors`."""
        return {name: stage.factor for stage in self.stages for name in stage.names}

    def frozen(self, step: int) -> frozenset[str]:
        """Names of the tensors that do not train yet at a step."""
        return frozenset(name for stage in self.stages if stage.start > step for name in stage.names)

    def trainable(self, step: int, sizes: Mapping[str, int]) -> int:
        """Parameters that train at a step, of tensors of these sizes."""
        frozen = self.frozen(step)
        return sum(size for name, size in sizes.items() if name not in frozen)

    def check(self, steps: int, names: Iterable[str]) -> None:
        """Whether it suits a training.

        Raises:
            RecipeError: a tensor that does not exist, a stage that never starts, or nothing that trains at the start.
        """
        known = list(names)
        for stage in self.stages:
            if missing := [name for name in stage.names if name not in known]:
                raise RecipeError(f"unfreezing: {missing[0]!r}", "is no trained tensor", "see named_parameters()")
            if stage.start >= steps:
                raise RecipeError(
                    f"unfreezing at step {stage.start}", f"never comes: there are {steps} steps",
                    "train for longer, or unfreeze in fewer steps",
                )  # fmt: skip
        if known and not set(known) - self.frozen(0):
            raise RecipeError("unfreezing", "leaves nothing to train at step 0", "let one stage start at 0")

    def guard(
        self,
        named_parameters: Iterable[tuple[str, torch.Tensor]],
        loss: Callable[[int], torch.Tensor],
        accumulate: int = 1,
    ) -> Callable[[int], torch.Tensor]:
        """The loss for `minimise`, which freezes and unfreezes before it computes.

        Args:
            named_parameters: all trained tensors.
            loss: as `minimise` takes it.
            accumulate: losses a step, as `minimise` takes it.
        """
        named, last = dict(named_parameters), -1

        def guarded(index: int) -> torch.Tensor:
            nonlocal last
            if index // accumulate != last:
                last = index // accumulate
                frozen = self.frozen(last)
                for name, parameter in named.items():
                    parameter.requires_grad_(name not in frozen)
            return loss(index)

        return guarded


def ladder(names: Sequence[str], every: int, stages: int | None = 4, decay: float = 2.6) -> Unfreezing:
    """Top blocks first: what has no block number (head, bridge, last norm) at once, embeddings after the lowest block.

    Without such tensors, as in most adapters, the top stage starts at once.

    Args:
        names: of the trained tensors; the number after "layers", "h" or "blocks" is their block's.
        every: steps between stages; 0 = everything from the start.
        stages: of blocks, as equal as can be; None = every block is one.
        decay: what the rate is divided by from one stage to the next.

    Raises:
        RecipeError: nothing has a block number, or a number is out of range.
    """
    if every < 0 or decay <= 0 or (stages is not None and stages < 1):
        raise RecipeError(
            f"unfreezing every {every} steps in {stages} stages, decay {decay}", "makes no schedule",
            "give steps from 0 up, at least one stage, and a decay above 0",
        )  # fmt: skip
    blocks = sorted({number for name in names if (number := block_of(name)) is not None})
    if not blocks:
        raise RecipeError(
            "unfreezing", f"finds no numbered blocks among {len(names)} tensors", "name the stages one by one"
        )
    count = min(stages or len(blocks), len(blocks))
    rank = {block: 1 + place * count // len(blocks) for place, block in enumerate(reversed(blocks))}
    rungs = {name: _rung(name, rank, count) for name in names}
    lowest = min(rungs.values())
    ordered = sorted(names, key=lambda name: rungs[name])
    return Unfreezing(
        tuple(
            Stage((rung - lowest) * every, decay ** (lowest - rung), tuple(group))
            for rung, group in groupby(ordered, key=lambda name: rungs[name])
        )
    )


def block_of(name: str) -> int | None:
    """The number of the block that a tensor belongs to; None = it belongs to none."""
    found = _BLOCK.search(name)
    return int(found[1]) if found else None


def _rung(name: str, rank: Mapping[int, int], count: int) -> int:
    """0 = at once, then blocks from the top, then embeddings."""
    block = block_of(name)
    if block is not None:
        return rank[block]
    return count + 1 if _EMBEDDINGS.search(name) else 0
