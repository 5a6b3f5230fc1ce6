"""Candidate recipes: what is cut, how the rest is rounded, how many bytes it may take; with the expected damage.

Nothing is run here. Damage is the expected KL divergence of the measured priors (`measure.sensitivity`, `measure.
removal`): rounding errors of different tensors add up, and so do removals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from featherweight.core.architecture import block_index, block_part
from featherweight.core.errors import BudgetError
from featherweight.core.formats import get
from featherweight.core.model import Model
from featherweight.core.precision import RUNTIME_FORMATS, choose_formats, smallest_bytes
from featherweight.core.recipe import Recipe
from featherweight.core.technique import Technique, build
from featherweight.measure.removal import Removal
from featherweight.measure.sensitivity import Sensitivity
from featherweight.plan.cost import bytes_by_format

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Cut:
    """What is removed before rounding: `drop` blocks, all but a share of the feed-forward channels."""

    drop: int = 0
    ffn: float = 1.0

    def steps(self) -> list[Technique]:
        steps = [build("depth", {"drop": self.drop})] if self.drop else []
        return [*steps, build("width", {"ffn": self.ffn})] if self.ffn < 1 else steps

    def __str__(self) -> str:
        parts = [f"{self.drop} blocks fewer"] if self.drop else []
        return " and ".join([*parts, f"{self.ffn:.0%} of the channels"] if self.ffn < 1 else parts) or "nothing cut"


@dataclass(frozen=True)
class Prior:
    """What is known before any candidate is run.

    Attributes:
        tables: expected damage of rounding, by rounding ("feedback", "nearest"), tensor and format.
        removal: expected damage of removing parts.
        overhead: bytes of an exported file that are not tensors.
        runtime: "gguf" or "compressed-tensors".
    """

    model: Model
    tables: Mapping[str, Sensitivity]
    removal: Removal
    overhead: int
    runtime: str


@dataclass(frozen=True)
class Candidate:
    """A recipe with what is expected of it.

    Attributes:
        memory: bytes that its file will take at most.
        cut_kl, round_kl: expected KL divergence of cutting and of rounding, nats a token.
        formats: expected bytes in each format.
    """

    recipe: Recipe
    cut: Cut
    rounding: str
    memory: int
    cut_kl: float
    round_kl: float
    formats: Mapping[str, int] = field(default_factory=dict)

    @property
    def kl(self) -> float:
        return self.cut_kl + self.round_kl

    @property
    def ratio(self) -> float:
        """Expected parent perplexity / child perplexity."""
        return math.exp(-min(self.kl, 50))

    @property
    def name(self) -> str:
        return self.recipe.digest[:12]


ROUNDINGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "gptq": ("feedback", ("gptq",)),
    "awq": ("nearest", ("awq",)),
    "imatrix": ("nearest", ("imatrix",)),
}
"""For each way of rounding, whose prior it takes and the techniques it runs."""

_BY_RUNTIME = {"gguf": ("gptq", "imatrix"), "compressed-tensors": tuple(ROUNDINGS)}

_SAFETY = 0.99  # of the bytes, where the shares of the formats after cutting are not known exactly
CUTS = (Cut(), Cut(drop=1), Cut(drop=2), Cut(drop=4), Cut(ffn=0.9), Cut(ffn=0.75), Cut(drop=4, ffn=0.75))


def candidates(
    prior: Prior, memory: Sequence[int], cuts: Sequence[Cut] = CUTS, roundings: Sequence[str] | None = None
) -> list[Candidate]:
    """Every cut with every rounding at every number of file bytes that it can meet, least expected damage first.

    Args:
        prior: what is known before anything is run.
        memory: numbers of file bytes.
        cuts: what may be removed.
        roundings: names in `ROUNDINGS`; None = those worth trying in the prior's runtime.
    """
    found = []
    for limit in memory:
        for cut in cuts:
            for rounding in _BY_RUNTIME[prior.runtime] if roundings is None else roundings:
                candidate = expect(prior, limit, cut, rounding)
                if candidate is not None:
                    found.append(candidate)
    return sorted(found, key=lambda each: each.kl)


def expect(prior: Prior, memory: int, cut: Cut, rounding: str) -> Candidate | None:
    """The candidate with its expected damage, or None when no choice of formats fits."""
    if cut.drop >= prior.model.architecture.blocks:
        return None
    kind, names = ROUNDINGS[rounding]
    table, shapes = _reduced(prior, cut, prior.tables[kind])
    budget = memory - prior.overhead
    try:
        chosen = choose_formats(table, shapes, prior.runtime, budget)
    except BudgetError:
        return None
    damage = sum(table.get(name, {}).get(each, 0.0) for name, each in chosen.items())
    steps = [
        *cut.steps(),
        build("mixed-precision", {"memory": budget, "runtime": prior.runtime, "rounding": kind}),
        *(build(name, {}) for name in names),
    ]
    formats = bytes_by_format(shapes, chosen)
    return Candidate(Recipe(tuple(steps)), cut, rounding, memory, _removed(prior, cut), damage, formats)


def rounded_first(prior: Prior, candidate: Candidate) -> Candidate | None:
    """The candidate with its rounding before its cuts: formats are chosen for the whole model, then parts go.

    Cutting shrinks every format alike, so rounding may take as much more as the cuts will give back. Formats whose
    blocks do not fit what the cuts leave of a row are not chosen. None where the others are too large for that.
    """
    table, whole = _reduced(prior, Cut(), prior.tables["feedback"])
    _, left = _reduced(prior, candidate.cut, prior.tables["feedback"])
    kinds = [kind for kind in RUNTIME_FORMATS[prior.runtime] if _survives(kind, prior.tables["feedback"], whole, left)]
    share = sum(map(math.prod, left.values())) / sum(map(math.prod, whole.values()))
    budget = int((candidate.memory - prior.overhead) / share * _SAFETY)
    usable = {name: {kind: row[kind] for kind in kinds if kind in row} for name, row in table.items()}
    if not kinds or smallest_bytes(usable, whole, prior.runtime) > budget:
        return None
    cuts = candidate.cut.steps()
    steps = []
    for step in candidate.recipe.steps[len(cuts) :]:
        fields = step.model_dump(mode="json", exclude_defaults=True)
        if "memory" in fields:
            fields |= {"memory": budget, "formats": kinds}
        steps.append(build(step.name, fields))
    return dataclasses.replace(candidate, recipe=Recipe((*steps, *cuts)))


def _survives(kind: str, table: Sensitivity, whole: _Shapes, left: _Shapes) -> bool:
    fits = get(kind).accepts
    return all(fits(left[name]) for name in table if name in left and fits(whole[name]))


def smallest(prior: Prior, cuts: Sequence[Cut] = CUTS) -> int:
    """Bytes of the smallest file that any cut with the smallest formats gives."""
    possible = [cut for cut in cuts if cut.drop < prior.model.architecture.blocks]
    reduced = [_reduced(prior, cut, prior.tables["feedback"]) for cut in possible]
    return prior.overhead + min(smallest_bytes(table, shapes, prior.runtime) for table, shapes in reduced)


def _removed(prior: Prior, cut: Cut) -> float:
    """Expected damage of a cut: the cheapest blocks, then the channels of those that are left."""
    costs = sorted(prior.removal["blocks"])
    blocks = float(sum(costs[: cut.drop]))
    left = (len(costs) - cut.drop) / len(costs)
    return blocks + (left * float(prior.removal["ffn"][str(cut.ffn)]) if cut.ffn < 1 else 0.0)


def _reduced(prior: Prior, cut: Cut, table: Sensitivity) -> tuple[Sensitivity, dict[str, tuple[int, ...]]]:
    """The table and the shapes of what a cut leaves."""
    costs = prior.removal["blocks"]
    gone = set(sorted(range(len(costs)), key=lambda block: costs[block])[: cut.drop])
    architecture = prior.model.architecture
    width = round(cut.ffn * architecture.size("ffn") / 32) * 32 if cut.ffn < 1 else architecture.size("ffn")
    shapes: dict[str, tuple[int, ...]] = {}
    kept: Sensitivity = {}
    for name, entry in prior.model.entries.items():
        if block_index(name) in gone:
            continue
        shapes[name] = _narrowed(prior.model, name, entry.shape, width)
        if name in table:
            share = math.prod(shapes[name]) / math.prod(entry.shape)
            kept[name] = {
                kind: damage * share for kind, damage in table[name].items() if get(kind).accepts(shapes[name])
            }
    return kept, shapes


def _narrowed(model: Model, name: str, shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    architecture = model.architecture
    module = block_part(name).rsplit(".", 1)[0]
    if block_index(name) is None or module not in architecture.linear_axes:
        return shape
    axes = architecture.axes(name, len(shape))
    full = architecture.size("ffn")
    return tuple(size * width // full if "ffn" in axis else size for axis, size in zip(axes, shape, strict=True))
