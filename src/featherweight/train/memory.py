"""How much memory a training step takes, term by term, and the cheapest way to make it fit a limit.

Weights, adapter, gradients and optimizer states are counted; what one block saves for its backward pass is counted by
watching a step of a one-block model of the same architecture, with the same method, rows and length; what such a step
takes beyond that is measured there as resident memory. The rest follows: activations of all blocks, or of one where
blocks are computed again; their inputs in memory or on disk; logits of all tokens or of one piece. What a limit leaves
over is not idle: freed memory stays with the process up to there, because to give it back and ask again costs time.

It knows the process, not the machine: memory of other processes and the system's file cache are not in it, nor what
CUDA itself takes of a GPU (some hundred megabytes), where the limit is one of the GPU's memory. Levers that
change what is learned (a base rounded to a format) are never taken unless they are allowed by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featherweight.core.budget import format_bytes
from featherweight.core.errors import BudgetError
from featherweight.core.lazy import torch
from featherweight.core.memory import large_blocks_returned
from featherweight.core.model import Model
from featherweight.train.memory_facts import facts_of
from featherweight.train.memory_terms import DENSE, STORED, Facts, Levers, Shape

KEPT = "freed, kept for reuse"
_SPARE = 0.03  # of a limit that freed memory does not fill: it is given back between blocks and not within one


@dataclass(frozen=True)
class MemoryPlan:
    """What a step will take, and how.

    Attributes:
        levers: what is done.
        terms: bytes by name.
        limit: that was asked for, or None.
        lower: other levers and what the step would take with them, smallest first.
    """

    levers: Levers
    terms: Mapping[str, int]
    limit: int | None
    lower: Sequence[tuple[Levers, int]] = ()

    @property
    def total(self) -> int:
        return sum(self.terms.values())

    @property
    def resting(self) -> int:
        """Bytes that the process may have between two blocks, so that no block takes it beyond the total."""
        return self.total - sum(self.terms[name] for name in ("activations", "logits", "working memory"))

    @property
    def binding(self) -> str:
        """The largest term that a lever, a smaller rank or a smaller shape can change."""
        return max((name for name in self.terms if name not in ("libraries", KEPT)), key=lambda name: self.terms[name])

    def receipt(self, measured: int | None) -> dict[str, Any]:
        """Plan and measured peak of the process, as plain values."""
        return {
            "levers": asdict(self.levers),
            "terms": dict(self.terms),
            "planned": self.total,
            "limit": self.limit,
            "measured_peak": measured,
            "within_plan": None if measured is None else measured <= self.total,
            "within_limit": None if measured is None or self.limit is None else measured <= self.limit,
        }


def choices(facts: Facts) -> list[Levers]:
    """All combinations, the quickest first; ways to keep the base that save nothing are left out."""
    dense = facts.weights[DENSE]
    bases = [base for base, size in facts.weights.items() if base == DENSE or size < 0.95 * dense]
    found = [
        Levers(base, recompute, offload)
        for base, (recompute, offload) in itertools.product(bases, [(False, False), (True, False), (True, True)])
    ]
    return sorted(found, key=lambda levers: (levers.time, facts.total(levers)))


def plan_from(facts: Facts, limit: int | None = None) -> MemoryPlan:
    """The quickest choice that stays below the limit; without a limit, the quickest.

    Raises:
        BudgetError: none does.
    """
    possible = choices(facts)
    chosen = next((each for each in possible if limit is None or facts.total(each) <= limit), None)
    if chosen is None:
        assert limit is not None
        raise _refusal(facts, possible, limit)
    lower = sorted(((each, facts.total(each)) for each in possible), key=lambda pair: pair[1])
    terms, total = facts.terms(chosen), facts.total(chosen)
    if limit is not None and chosen.recompute and facts.device == "cpu":
        terms[KEPT] = max(0, round((1 - _SPARE) * limit) - total)
    return MemoryPlan(chosen, terms, limit, tuple(pair for pair in lower if pair[1] < total))


def _refusal(facts: Facts, possible: list[Levers], limit: int) -> BudgetError:
    least = min(possible, key=facts.total)
    plan = MemoryPlan(least, facts.terms(least), limit)
    what, weights = f"--memory {format_bytes(limit)}", min(facts.weights.values())
    stored = facts.weights.get(STORED, facts.weights[DENSE])
    if limit <= facts.resident:
        why = f"is below what Python and its libraries take before training, {format_bytes(facts.resident)}"
    elif limit <= stored and weights == stored:
        why = f"is below the weights themselves, which take {format_bytes(stored)} as they are stored"
    else:
        why = (
            f"is below the least that is possible, {format_bytes(plan.total)} ({least.words()}), of which the most is "
            f"{plan.binding}, {format_bytes(plan.terms[plan.binding])}"
        )
        if limit <= stored:
            why = f"is below the weights, which take {format_bytes(stored)} as they are stored, and {why}"
    return BudgetError(what, why, f"allow {format_bytes(plan.total)}, {_mend(plan.binding)}")


def _mend(binding: str) -> str:
    mends = {
        "activations": "or shorten the rows, or take fewer at a time",
        "block inputs": "or shorten the rows, or take fewer at a time",
        "working memory": "or shorten the rows, or take fewer at a time",
        "frozen weights": "or allow a base rounded to a format such as int4-g32",
    }
    return mends.get(binding, "or lower the rank, or adapt fewer linears")


def plan_memory(
    model: Model,
    method: Any,
    shape: Shape,
    limit: int | None = None,
    allowed: Sequence[str] = (),
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> MemoryPlan:
    """The quickest way to train that stays below a limit.

    Args:
        model: the base.
        method: an `AdapterTechnique`: its PEFT configuration and its loss of a step.
        shape: rows that pass the model at once.
        limit: bytes of this process at its peak, or of torch's tensors on a GPU; None = none.
        allowed: formats to which the base may be rounded.
        device: where it trains.
        dtype: in which the base computes; None = float32.

    Raises:
        BudgetError: nothing fits; names the limit, the least possible and what it is made of.
    """

    with large_blocks_returned():
        return plan_from(facts_of(model, method, shape, allowed, device, dtype), limit)
