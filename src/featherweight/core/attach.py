"""Puts a PEFT adapter on a module, with first values that a generator decides and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from featherweight.core.lazy import torch

if TYPE_CHECKING:
    import peft


def attach(module: Any, config: peft.PeftConfig, generator: torch.Generator) -> Any:
    """PEFT's wrapper of a module with a new adapter, whose initial values the generator decides."""
    import peft

    with seeded(generator), without_renamings():
        return peft.get_peft_model(module, config)


@contextmanager
def without_renamings() -> Iterator[None]:
    """PEFT reads what this transformers is about to rename: its users cannot mend that, and are not told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """PEFT and dropout draw from torch's global generators: they are set for a while, and put back."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
