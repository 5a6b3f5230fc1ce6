"""The state of training between two updates, as one file: written whole, read only by the run that it belongs to.

Trained parameters, the optimizer's state, the losses so far and the number of updates done. Generators need not be
kept: everything random in a step is drawn from the seed and the step's number, so going on gives what an uninterrupted
run gives, bit for bit on the same machine with the same number of threads.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherweight.core.errors import ResumeError
from featherweight.core.lazy import torch
from featherweight.core.whole import whole_file


@dataclass
class Course:
    """What happened so far.

    Attributes:
        losses: of every update.
        held_out: loss on the held-out rows after so many updates.
    """

    losses: list[float] = field(default_factory=list)
    held_out: dict[int, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.losses)


def save(
    path: Path,
    facts: Mapping[str, Any],
    course: Course,
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes the state, in place of the one before.

    Args:
        path: the file.
        facts: plain values that say which training this is.
        course: what happened so far.
        parameters: those that are trained, by name.
        optimizer: over them.
    """
    state = {
        "facts": dict(facts), "losses": course.losses, "held_out": course.held_out,
        "parameters": {name: each.detach() for name, each in parameters.items()}, "optimizer": optimizer.state_dict(),
    }  # fmt: skip
    with whole_file(path) as draft:
        torch.save(state, draft)


def load(
    path: Path, facts: Mapping[str, Any], parameters: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> Course:
    """Puts parameters and optimizer into the state of a file.

    Raises:
        ResumeError: it cannot be read, or belongs to another training; the first difference is named.
    """
    mend = "start a new run, or give the inputs that this one was started with"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ResumeError(str(path), f"cannot be read ({str(error).splitlines()[0]})", "start a new run") from None
    before = state["facts"]
    for key in sorted({*before, *facts}):
        if before.get(key) != facts.get(key):
            raise ResumeError(str(path), f"was trained with {key} = {before.get(key)}, now {facts.get(key)}", mend)
    if state["parameters"].keys() != parameters.keys():
        raise ResumeError(str(path), "holds other parameters than those that are trained now", mend)
    with torch.no_grad():
        for name, value in state["parameters"].items():
            parameters[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return Course(list(state["losses"]), dict(state["held_out"]))
