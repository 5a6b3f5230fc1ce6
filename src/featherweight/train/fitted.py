"""A module with an adapter, made and trained as a memory plan says; see `train.memory`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherweight.core.memory import give_back_memory, given_back_above, large_blocks_returned
from featherweight.core.model import Model
from featherweight.core.packing import PackedRows
from featherweight.core.run import Run
from featherweight.train.memory_terms import DENSE, DISK, Levers, Shape

if TYPE_CHECKING:
    from featherweight.train.adapter_technique import AdapterTechnique
    from featherweight.train.memory import MemoryPlan


@contextmanager
def fitted(
    technique: AdapterTechnique, model: Model, run: Run, plan: MemoryPlan | None = None, folder: Path | None = None
) -> Iterator[Any]:
    """PEFT's wrapper of the model's module with a new adapter, the same that `technique.attach` makes.

    Args:
        technique: the method.
        model: the base.
        run: gives the device and the generators.
        plan: what is done to stay below a limit, as long as the `with` block lasts; None = there is no limit.
        folder: where the temporary file goes, if one is needed; None = the system's folder for those.
    """
    from featherweight.train.frozen_module import frozen_module
    from featherweight.train.recompute import recomputed
    from featherweight.train.spill import Spill

    levers = plan.levers if plan else Levers()
    with ExitStack() as stack:
        small = stack.enter_context(ExitStack())
        if plan:
            small.enter_context(large_blocks_returned())
        spill = stack.enter_context(Spill(folder)) if levers.offload or levers.base == DISK else None
        dtype = technique.compute_dtype(run.device)
        module = None if levers.base == DENSE else frozen_module(model, levers.base, spill, run.device, dtype)
        adapted = technique.attach(model, run, module)
        give_back_memory()
        if plan and levers.recompute:
            small.close()  # from here on memory is given back behind the blocks, when it must be
            relieve = given_back_above(plan.resting) if run.device == "cpu" else _nothing
            blocks = adapted.get_base_model().model.layers
            stack.enter_context(recomputed(blocks, spill if levers.offload else None, relieve))
        yield adapted


@contextmanager
def evaluating(plan: MemoryPlan | None) -> Iterator[None]:
    """While it is open, a fitted module may be evaluated: its limit holds although no block gives memory back."""
    if plan is None:
        yield
        return
    with large_blocks_returned():
        give_back_memory()
        yield


def _nothing() -> None:
    """Torch keeps and reuses a GPU's memory by itself."""


def shape_of(technique: AdapterTechnique, rows: PackedRows) -> Shape:
    """The largest part of an update that passes the model at once."""
    together = -(-min(technique.batch, len(rows)) // technique.parts)
    longest = max((sum(len(rows.examples[number].ids) for number in row) for row in rows.rows), default=1)
    return Shape(
        together, min(longest, technique.length), packed=any(len(row) > 1 for row in rows.rows) or together > 1
    )
