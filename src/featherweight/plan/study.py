"""Study: one parent with its data, its goal and everything that is known before a candidate is run."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from featherweight.core.architecture import EMBEDDING, HEAD, block_index
from featherweight.core.data import TokenSet
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.precision import RUNTIME_FORMATS
from featherweight.core.run import Run
from featherweight.measure.removal import removals
from featherweight.measure.sensitivity import sensitivities
from featherweight.plan.candidates import CUTS, Candidate, Cut, Prior, candidates, smallest
from featherweight.plan.cost import LatencyModel
from featherweight.plan.exporter import Exporter
from featherweight.plan.goal import Goal

_TABLE_ROWS = 12
_MARGIN = 0.015  # how far the lower end of the quality interval lies below its middle, for choosing what to try
_STEPS = 32
_DOUBTFUL = 0.85  # of the expected decode time may be what is measured


@dataclass(frozen=True)
class Study:
    """What a plan is made from.

    Attributes:
        parent: the model.
        exporter: of the format asked for.
        goal: limits in absolute units.
        calibration: rows to tune on; `selection`: rows to choose on; `held_out`: rows to judge on.
        run: seed, store, progress; its calibration is `calibration`.
        latency_model: expected decode time; None where no latency limit is set.
        resident_overhead: bytes that a serving process takes beside the file; None where no limit is set.
    """

    parent: Model
    exporter: Exporter
    goal: Goal
    calibration: TokenSet
    selection: TokenSet
    held_out: TokenSet
    run: Run
    latency_model: LatencyModel | None = None
    resident_overhead: int | None = None

    @functools.cached_property
    def prior(self) -> Prior:
        """Expected damage of rounding and of removing, measured once and kept in the run's store."""
        rows = self.calibration.spread(_TABLE_ROWS)
        kinds = RUNTIME_FORMATS[self.exporter.runtime]
        tables = sensitivities(self.parent, rows, kinds, self.run, ("feedback", "nearest"))
        shares = sorted({cut.ffn for cut in CUTS if cut.ffn < 1})
        removal = removals(self.parent, rows.spread(max(4, _TABLE_ROWS // 3)), shares, self.run)
        return Prior(self.parent, tables, removal, self.overhead, self.exporter.runtime)

    @functools.cached_property
    def parent_bytes(self) -> int:
        """Bytes of the parent's own file, every matrix in bf16."""
        return bf16_file_bytes(self.parent, self.exporter)

    @functools.cached_property
    def overhead(self) -> int:
        """Bytes of a file that are not tensors: header, tokenizer, alignment at its worst.

        Rounded tensors may take more of the header than plain ones, so both are looked at.
        """
        alignment = 32 * len(self.parent.entries) if self.exporter.runtime == "gguf" else 0
        return alignment + max(self._extra(in_bf16(self.parent)), self._extra(self._rounded))

    @property
    def _rounded(self) -> dict[str, str]:
        """Every matrix that the runtime rounds, in some format that fits it."""
        kinds = RUNTIME_FORMATS[self.exporter.runtime]
        ends = () if self.exporter.runtime == "gguf" else (EMBEDDING, HEAD)
        shapes = {name: self.parent.entries[name].shape for name in in_bf16(self.parent) if name not in ends}
        fitting = {name: [kind for kind in kinds if get(kind).accepts(shape)] for name, shape in shapes.items()}
        return {name: found[-1] for name, found in fitting.items() if found}

    def _extra(self, formats: Mapping[str, str]) -> int:
        vectors = "F32" if self.exporter.runtime == "gguf" else "BF16"
        stored = {**in_bf16(self.parent), **formats}
        tensors = sum(
            get(stored.get(name, vectors)).tensor_bytes(entry.shape) for name, entry in self.parent.entries.items()
        )
        return self.exporter.file_bytes(self.parent, stored) - tensors

    def best(self, size: int, cut: Cut | None = None) -> Candidate | None:
        """The candidate of least expected damage whose file takes at most `size` bytes."""
        found = candidates(self.prior, [size], CUTS if cut is None else [cut], ["gptq"])
        return found[0] if found else None

    @functools.cached_property
    def curve(self) -> list[Candidate]:
        """The best expected candidate at each of many sizes, smallest first: the expected frontier."""
        low, high = smallest(self.prior), self.parent_bytes
        sizes = [int(low * (high / low) ** (step / (_STEPS - 1))) for step in range(_STEPS)]
        # Cuts are only tried where rounding alone does not get that small: each solution costs some milliseconds.
        found = [self.best(size, Cut()) or self.best(size) for size in sizes]
        return [each for each in found if each is not None]

    def sizes(self) -> list[int]:
        """File sizes worth trying: the largest that the goal may allow, then smaller ones, for certainty and shape.

        Where expected decode times say that the goal may be missed, the size at which they are sure is tried as well.
        """
        ceiling, sure = self._ceiling(1 / _DOUBTFUL), self._ceiling(1.0)
        floor = self.goal.quality
        if self.goal.memory is None and floor is not None:
            needed = self.needed(floor)
            ceiling = min(ceiling, needed.memory) if needed is not None else ceiling
        less = [sure] if sure < ceiling else self._neighbours(ceiling)
        return [ceiling, *less]

    def _ceiling(self, slack: float) -> int:
        """The largest size that meets the limits, decode time within `slack` times its limit."""
        limits = [self.parent_bytes]
        if self.goal.memory is not None:
            limits.append(self.goal.memory)
        if self.goal.resident is not None and self.resident_overhead is not None:
            limits.append(self.goal.resident - self.resident_overhead)
        if self.goal.latency is not None and self.latency_model is not None:
            fast = [each.memory for each in self.curve if self._seconds(each) <= self.goal.latency * slack]
            limits.append(max(fast, default=smallest(self.prior)))
        return max(min(limits), smallest(self.prior))

    def _neighbours(self, size: int) -> list[int]:
        """One smaller size, if it is possible at all."""
        below = int(size * 0.88)
        return [below] if below >= smallest(self.prior) else []

    def _seconds(self, candidate: Candidate) -> float:
        assert self.latency_model is not None
        return self.latency_model.seconds(candidate.formats)

    def seconds(self, candidate: Candidate) -> float | None:
        """Expected seconds a decoded token."""
        return None if self.latency_model is None else self._seconds(candidate)

    def needed(self, quality: float) -> Candidate | None:
        """The smallest expected candidate that reaches a quality."""
        enough = [each for each in self.curve if each.ratio - _MARGIN >= quality]
        return min(enough, key=lambda each: each.memory, default=None)


def in_bf16(model: Model) -> dict[str, str]:
    """Every matrix that can be rounded, left in bf16."""
    return dict.fromkeys(model.architecture.quantizable(), "BF16")


def bf16_file_bytes(model: Model, exporter: Exporter) -> int:
    """Exact bytes of a model's file with every matrix in bf16: what a share of memory is a share of."""
    return exporter.file_bytes(model, in_bf16(model))


def precision_map(formats: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Formats by block and by part of the block, for a table or a picture; what is in no block is under "-"."""
    result: dict[str, dict[str, str]] = {}
    for name, kind in formats.items():
        block = block_index(name)
        row = result.setdefault("-" if block is None else str(block), {})
        row[name.removesuffix(".weight").rsplit(".", 1)[-1]] = kind
    return result
